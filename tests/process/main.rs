//! Tests of whole processes. `cargo test --test process browser_ -- --ignored` runs those that need Chromium.
//!
//! A module whose head says `needs:` is deleted by `scripts/remove` with any of these features.

#[path = "../common/mod.rs"]
mod common;
mod webdriver;

mod activity;
mod browser_accessibility;
mod browser_account;
mod browser_activity;
mod browser_busy;
mod browser_change_password;
mod browser_change_username;
mod browser_confirm;
mod browser_copy;
mod browser_csrf;
mod browser_delete_account;
mod browser_draft_secrets;
mod browser_drafts;
mod browser_export;
mod browser_mail;
mod browser_mail_previews;
mod browser_members;
mod browser_notes;
mod browser_passkeys;
mod browser_prepared_account;
mod browser_recovery_codes;
mod browser_second_press;
mod browser_session_list;
mod browser_signup;
mod browser_step_up;
mod browser_theme;
mod browser_two_factor;
mod browser_without_scripts;
mod change_password;
mod commands;
mod configuration;
mod database_at_start;
mod database_file;
mod doctor;
mod export;
mod full_files;
mod guessing;
mod haproxy;
mod import;
mod load_balancer;
mod logging;
mod mail;
mod mail_delivery;
mod mail_faults;
mod mail_links;
mod move_refusals;
mod move_site;
mod passkeys_log;
mod password_reset;
mod prepared_account;
mod recovery_codes;
mod replicas;
mod second_press;
mod serve_requests;
mod serve_startup;
mod session_expiry;
mod signup_race;
mod smtp_server;
mod stolen_database;
mod two_factor;
