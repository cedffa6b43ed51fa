//! [`ShownCodes`]: new recovery codes as a page shows them, by `{% include "codes.html" %}`.

use super::{app::App, format::date};
use crate::accounts::{Session, recovery_code};
use crate::base::Result;
use crate::db::Connection;
use serde::Serialize;

#[derive(Serialize)]
pub struct ShownCodes {
    pub codes: Vec<String>,
    /// The day on which they were made, and the address of the site, for whoever finds the printed page later.
    pub made: String,
    pub address: String,
}

impl ShownCodes {
    /// Those that this session has just made, if there are any.
    pub async fn of_session(app: &App, db: &mut Connection, session: &Session) -> Result<Option<ShownCodes>> {
        let shown = recovery_code::shown(db, &app.seals, session).await?;
        let address = app.config.base_url.authority().to_string();
        Ok(shown.map(|shown| ShownCodes { codes: shown.codes, made: date(shown.made_at), address }))
    }
}
