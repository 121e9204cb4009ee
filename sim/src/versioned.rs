// SPDX-License-Identifier: GPL-2.0-only
//! JSON whose first question is of which version it is.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads a text of version `schema`. The version first, so that a file from another version is not called
/// malformed; `otherwise` ends the sentence about one that has none.
pub fn parse<T: DeserializeOwned>(text: &str, schema: u32, otherwise: &str) -> Result<T, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match value.get("schema").and_then(Value::as_u64) {
        Some(version) if version == u64::from(schema) => {}
        Some(version) => {
            return Err(format!("schema: the file is of version {version}, this program reads version {schema}"))
        }
        None => return Err(format!("schema: missing, or not a number; {otherwise}")),
    }
    // Once more from the text, which knows its lines.
    serde_json::from_str(text).map_err(|error| error.to_string())
}
