// SPDX-License-Identifier: GPL-2.0-only
//! A snapshot that an NBD server exports, the emulator's for one.
//!
//! Contract: reads from several threads are in flight together.

use crate::error::Error;
use crate::source::Source;
use nbd::{Client, ClientError, Uri};
use std::io;

/// Whether a snapshot's name is an NBD URI rather than a path.
pub fn is_uri(name: &str) -> bool {
    ["nbd://", "nbd+unix://", "nbds://", "nbds+unix://"].iter().any(|scheme| name.starts_with(scheme))
}

/// The name of the export in a URI, with its percent signs resolved.
pub fn export_name(uri: &str) -> Option<String> {
    Uri::parse(uri).ok().map(|uri| uri.export)
}

/// A connected export.
pub struct Export {
    client: Client,
}

impl Export {
    /// Connects to an export.
    pub fn connect(uri: &str) -> Result<Export, Error> {
        let failed = |cause: String| Error::Nbd { uri: uri.into(), cause };
        let parsed = Uri::parse(uri).map_err(|error| failed(error.to_string()))?;
        let client = Client::connect(&parsed).map_err(|error| failed(error.to_string()))?;
        Ok(Export { client })
    }

    /// Size of the export (bytes).
    pub fn bytes(&self) -> u64 {
        self.client.size()
    }
}

impl Source for Export {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.client.read_at(offset, buffer).map_err(|error| match (error.errno(), &error) {
            // NBD's numbers are those of Linux.
            (Some(errno), _) => io::Error::from_raw_os_error(errno.code() as i32),
            (None, ClientError::Lost { .. }) => io::Error::new(io::ErrorKind::ConnectionAborted, error),
            (None, _) => io::Error::other(error),
        })
    }
}
