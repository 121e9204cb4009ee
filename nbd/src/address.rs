// SPDX-License-Identifier: GPL-2.0-only
//! Where a server listens: `unix:PATH` or `tcp:HOST:PORT`.
//!
//! NBD without TLS has no access control of its own, so TCP is for the loopback interface only.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
};

use thiserror::Error;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port of the loopback interface; port 0 lets the system choose.
    Tcp(SocketAddr),
}

/// Text that is no address to listen on.
#[derive(Debug, Error)]
pub enum AddressError {
    /// Neither `unix:` nor `tcp:`.
    #[error("'{0}' is no address: use unix:PATH or tcp:HOST:PORT")]
    Scheme(String),
    /// `unix:` without a path.
    #[error("'{0}' names no socket: use unix:PATH")]
    NoPath(String),
    /// `tcp:` with a host or port that cannot be found.
    #[error("'{text}' is no TCP address, use tcp:HOST:PORT: {cause}")]
    Host {
        /// The text.
        text: String,
        /// Why it cannot be resolved.
        cause: std::io::Error,
    },
    /// `tcp:` with an address others can reach.
    #[error("'{0}' is not on the loopback interface: NBD has no access control, use tcp:127.0.0.1:PORT or unix:PATH")]
    NotLoopback(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(AddressError::NoPath(text.into())),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let Some(host) = text.strip_prefix("tcp:") else {
            return Err(AddressError::Scheme(text.into()));
        };
        let mut found = host
            .to_socket_addrs()
            .map_err(|cause| AddressError::Host { text: text.into(), cause })?
            .filter(|address| address.ip().is_loopback());
        match found.next() {
            Some(address) => Ok(Self::Tcp(address)),
            None => Err(AddressError::NotLoopback(text.into())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        for text in ["unix:/run/a b.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        let error = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        assert!(error("/run/x").contains("use unix:PATH or tcp:HOST:PORT"));
        assert!(error("unix:").contains("names no socket"));
        assert!(error("tcp:127.0.0.1").contains("is no TCP address"));
        assert!(error("tcp:127.0.0.1:99999").contains("is no TCP address"));
        assert!(error("tcp:0.0.0.0:1").contains("not on the loopback interface"));
        assert!(error("tcp:192.0.2.1:1").contains("not on the loopback interface"));
    }
}
