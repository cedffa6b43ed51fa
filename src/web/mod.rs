//! What HTTP needs: routes, forms, pages, cookies, and who is asking.

pub mod administration;
pub mod app;
pub mod assets;
pub mod auth;
pub mod client;
pub mod conditional;
pub mod cookie;
pub mod credentials;
pub mod error_pages;
pub mod factors;
pub mod flash;
pub mod form;
pub mod form_owner;
pub mod format;
pub mod list;
pub mod login;
pub mod once;
pub mod page;
pub mod redirect;
pub mod request_tasks;
pub mod routes;
pub mod security;
pub mod shown_codes;
pub mod site_map;
pub mod templates;
pub mod user_data;

#[allow(unused_imports)] // What nothing uses yet is for features to come.
pub use {
    administration::{Administrator, require_cover},
    app::{AccountGroup, AccountRow, AddedCredentials, App, Factor, RowContext, RowState},
    auth::AuthState,
    factors::FactorCounts,
    flash::Flash,
    form::{Empty, Form, Json, Query},
    list::{List, ListQuery, ONE_MORE},
    login::{Credentials, Detour, Login},
    page::Page,
    redirect::{LocalPath, Redirect, redirect},
    routes::{Access, NextQuery, Routes},
    shown_codes::ShownCodes,
    templates::{MailTemplate, Template, Theme, files},
};
