// SPDX-License-Identifier: GPL-2.0-only
//! Where an export is found: `nbd://HOST[:PORT]/NAME` or `nbd+unix:///NAME?socket=PATH`.
//!
//! Names and paths are percent-encoded. `Display` gives a URI that parses to the same value.

use std::{ffi::OsString, fmt, os::unix::ffi::OsStringExt as _, path::PathBuf, str::FromStr};

use thiserror::Error;

/// The port that IANA gave to NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// Where an export is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// The server.
    pub endpoint: Endpoint,
    /// Name of the export; empty for the default one.
    pub export: String,
}

/// A server to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Host and port.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// Text that is no NBD URI.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{uri}' is no NBD URI: {reason}")]
pub struct UriError {
    uri: String,
    reason: &'static str,
}

impl Uri {
    /// Parses a URI.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        parse(text).map_err(|reason| UriError { uri: text.into(), reason })
    }
}

fn parse(text: &str) -> Result<Uri, &'static str> {
    const FORMS: &str = "use nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH";
    let (scheme, rest) = text.split_once("://").ok_or(FORMS)?;
    let rest = match rest.split_once('#') {
        Some(_) => return Err("it has a fragment (write # as %23)"),
        None => rest,
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
    let export = String::from_utf8(percent_decode(name)?).map_err(|_| "the name of the export is not UTF-8")?;
    if export.len() > crate::protocol::MAX_STRING {
        return Err("the name of the export is too long");
    }
    let mut socket = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("socket", path)) => socket = Some(percent_decode(path)?),
            // Other parameters are about TLS, which is not supported: better to refuse than to
            // talk in the clear to somebody who asked for more.
            _ => return Err("the only known parameter is socket=PATH"),
        }
    }
    let endpoint = match (scheme, socket) {
        ("nbd+unix", Some(path)) if !path.is_empty() => {
            if !authority.is_empty() {
                return Err("a host makes no sense with a socket, write three slashes");
            }
            Endpoint::Unix(OsString::from_vec(path).into())
        }
        ("nbd+unix", _) => return Err("nbd+unix needs ?socket=PATH"),
        ("nbd", Some(_)) => return Err("?socket= goes with nbd+unix"),
        ("nbd", None) => tcp(authority)?,
        ("nbds" | "nbds+unix", _) => return Err("TLS is not supported"),
        _ => return Err(FORMS),
    };
    Ok(Uri { endpoint, export })
}

fn tcp(authority: &str) -> Result<Endpoint, &'static str> {
    if authority.contains('@') {
        return Err("user names are not supported");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("the ] is missing")?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err("the port is not a number from 1 to 65535"),
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err("the port is not a number from 1 to 65535"),
        },
    };
    let host = String::from_utf8(percent_decode(host)?).map_err(|_| "the host is not UTF-8")?;
    if host.is_empty() {
        return Err("the host is missing");
    }
    Ok(Endpoint::Tcp { host, port })
}

fn percent_decode(text: &str) -> Result<Vec<u8>, &'static str> {
    const BAD: &str = "a % is not followed by two hexadecimal digits";
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(BAD);
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => (digit(bytes.next())? * 16 + digit(bytes.next())?) as u8,
            byte => byte,
        });
    }
    if out.contains(&0) {
        return Err("it holds a NUL byte");
    }
    Ok(out)
}

fn percent_encode(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                write!(f, "{}", char::from(byte))?
            }
            _ => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        Self::parse(text)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "nbd://[{host}]:{port}/")?,
            Endpoint::Tcp { host, port } => {
                f.write_str("nbd://")?;
                percent_encode(f, host.as_bytes())?;
                write!(f, ":{port}/")?;
            }
            Endpoint::Unix(_) => f.write_str("nbd+unix:///")?,
        }
        percent_encode(f, self.export.as_bytes())?;
        if let Endpoint::Unix(path) = &self.endpoint {
            f.write_str("?socket=")?;
            percent_encode(f, path.as_os_str().as_encoded_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp(host: &str, port: u16, export: &str) -> Uri {
        Uri { endpoint: Endpoint::Tcp { host: host.into(), port }, export: export.into() }
    }

    #[test]
    fn parses_both_forms() {
        for (text, uri) in [
            ("nbd://localhost", tcp("localhost", 10809, "")),
            ("nbd://localhost/", tcp("localhost", 10809, "")),
            ("nbd://localhost:/x", tcp("localhost", 10809, "x")),
            ("nbd://10.0.0.1:77/a/b%20c", tcp("10.0.0.1", 77, "a/b c")),
            ("nbd://[::1]:77/x", tcp("::1", 77, "x")),
            ("nbd://[::1]", tcp("::1", 10809, "")),
        ] {
            assert_eq!(Uri::parse(text), Ok(uri), "{text}");
        }
        let unix = Uri::parse("nbd+unix:///disk%2Fone?socket=/run/a%20b").unwrap();
        assert_eq!(unix.endpoint, Endpoint::Unix("/run/a b".into()));
        assert_eq!(unix.export, "disk/one");
    }

    #[test]
    fn refuses_with_a_reason() {
        for (text, reason) in [
            ("localhost", "use nbd://HOST"),
            ("http://x/", "use nbd://HOST"),
            ("nbd:///x", "the host is missing"),
            ("nbd://x:0/", "port"),
            ("nbd://x:65536/", "port"),
            ("nbd://[::1/", "]"),
            ("nbd://[::1]9/", "port"),
            ("nbd://u@x/", "user"),
            ("nbd://x/?socket=/a", "nbd+unix"),
            ("nbd+unix:///x", "needs ?socket"),
            ("nbd+unix:///x?socket=", "needs ?socket"),
            ("nbd+unix://h/x?socket=/a", "three slashes"),
            ("nbd+unix:///x?socket=/a&tls-certificates=/c", "parameter"),
            ("nbds://x/", "TLS"),
            ("nbd://x/%4", "hexadecimal"),
            ("nbd://x/%+4", "hexadecimal"),
            ("nbd://x/%00", "NUL"),
            ("nbd://x/%ff", "UTF-8"),
            ("nbd://x/a#b", "%23"),
        ] {
            let error = Uri::parse(text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains(reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn display_parses_back(host in "[a-z0-9.-]{1,9}", port in 1u16.., export in "[^\0]{0,20}") {
            let uri = tcp(&host, port, &export);
            prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(uri));
            let uri = Uri { endpoint: Endpoint::Unix(format!("/{export}").into()), export };
            prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(uri));
        }

        #[test]
        fn parse_never_panics(text in "(nbd(\\+unix)?://)?[\\PC%?&=\\[\\]:/@]{0,30}") {
            let _ = Uri::parse(&text);
        }
    }
}
