// SPDX-License-Identifier: GPL-2.0-only
//! The server's half of the handshake: fixed newstyle, options until one of them goes.
//!
//! The client is not trusted: options are bounded in length and number. Ends with a [`Session`],
//! or without one when the client has left or cannot be talked to.

use std::{
    io::{self, IoSlice},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
};

use crate::{
    export::{Catalogue, Export},
    protocol::*,
    socket::{Inbox, Socket},
};

/// The longest option that is looked at; a longer one is refused.
const MAX_OPTION: u32 = 64 << 10;
/// The longest option that is skipped; with a longer one the client is dropped.
const MAX_SKIP: u32 = 1 << 20;
/// Nobody needs so many options.
const MAX_OPTIONS: usize = 1024;

/// What was agreed on.
pub(crate) struct Session {
    pub(crate) export: Arc<dyn Export>,
    /// Structured replies.
    pub(crate) structured: bool,
    /// Number and name of the selected metadata contexts.
    pub(crate) contexts: Vec<(u32, String)>,
}

/// Where an option leads to.
enum Next {
    Option,
    Go(Session),
    Leave,
}

struct Handshake<'a> {
    socket: &'a Socket,
    catalogue: &'a dyn Catalogue,
    no_zeroes: bool,
    structured: bool,
    /// Export and contexts of the last `OPT_SET_META_CONTEXT`.
    selected: Option<(String, Vec<(u32, String)>)>,
}

/// Shakes hands.
pub(crate) fn negotiate(
    socket: &Socket,
    inbox: &mut Inbox,
    catalogue: &dyn Catalogue,
    stopping: &AtomicBool,
) -> io::Result<Option<Session>> {
    const OURS: u16 = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES;
    socket.send(&mut [IoSlice::new(&encode_greeting(OURS))])?;
    let flags = u32::from_be_bytes(inbox.array()?);
    if flags & !u32::from(OURS) != 0 {
        return Ok(None);
    }
    let mut handshake = Handshake {
        socket,
        catalogue,
        no_zeroes: flags & u32::from(FLAG_NO_ZEROES) != 0,
        structured: false,
        selected: None,
    };
    for _ in 0..MAX_OPTIONS {
        let Ok(header) = OptionHeader::decode(&inbox.array()?) else {
            return Ok(None);
        };
        if header.length > MAX_OPTION {
            if header.length > MAX_SKIP || header.option == OPT_EXPORT_NAME {
                return Ok(None);
            }
            inbox.discard(header.length.into())?;
            handshake.refuse(header.option, REP_ERR_TOO_BIG, "option too long")?;
            continue;
        }
        let mut data = vec![0; header.length as usize];
        inbox.fill(&mut data)?;
        if stopping.load(Ordering::Acquire) {
            handshake.refuse(header.option, REP_ERR_SHUTDOWN, "the server is shutting down")?;
            return Ok(None);
        }
        match handshake.option(header.option, &data)? {
            Next::Option => {}
            Next::Go(session) => return Ok(Some(session)),
            Next::Leave => return Ok(None),
        }
    }
    Ok(None)
}

impl Handshake<'_> {
    fn option(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        match option {
            OPT_EXPORT_NAME => return self.export_name(data),
            OPT_ABORT => {
                // The client need not wait for it.
                let _ = self.reply(option, REP_ACK, &[]);
                return Ok(Next::Leave);
            }
            OPT_LIST if data.is_empty() => {
                for name in self.catalogue.names() {
                    self.reply(option, REP_SERVER, &encode_server(&name))?;
                }
                self.reply(option, REP_ACK, &[])?;
            }
            OPT_STRUCTURED_REPLY if data.is_empty() && !self.structured => {
                self.structured = true;
                self.reply(option, REP_ACK, &[])?;
            }
            OPT_LIST | OPT_STRUCTURED_REPLY => {
                self.refuse(option, REP_ERR_INVALID, "unexpected data or repeated option")?;
            }
            OPT_INFO | OPT_GO => return self.info(option, data),
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => self.contexts(option, data)?,
            OPT_STARTTLS => self.refuse(option, REP_ERR_UNSUP, "TLS is not supported")?,
            _ => self.refuse(option, REP_ERR_UNSUP, "unknown option")?,
        }
        Ok(Next::Option)
    }

    fn export_name(&mut self, data: &[u8]) -> io::Result<Next> {
        let Some((name, export)) =
            text(data).ok().and_then(|name| self.catalogue.open(&name).map(|export| (name, export)))
        else {
            // There is no way to say no but this.
            return Ok(Next::Leave);
        };
        let size = export.size().to_be_bytes();
        let flags = self.transmission_flags(&*export).to_be_bytes();
        let padding = [0; 124];
        let padding = if self.no_zeroes { &[] } else { &padding[..] };
        self.socket.send(&mut [IoSlice::new(&size), IoSlice::new(&flags), IoSlice::new(padding)])?;
        Ok(Next::Go(self.session(&name, export)))
    }

    fn info(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        let query = match InfoQuery::decode(data) {
            Ok(query) => query,
            Err(error) => {
                self.refuse(option, REP_ERR_INVALID, &error.to_string())?;
                return Ok(Next::Option);
            }
        };
        let Some(export) = self.open(option, &query.export)? else {
            return Ok(Next::Option);
        };
        let mut infos = vec![
            Info::Export { size: export.size(), flags: self.transmission_flags(&*export) },
            Info::BlockSize {
                minimum: export.min_block(),
                preferred: export.min_block().max(4096),
                maximum: MAX_PAYLOAD,
            },
        ];
        if query.wanted.contains(&INFO_NAME) {
            infos.push(Info::Name(query.export.clone()));
        }
        let description = export.description();
        if query.wanted.contains(&INFO_DESCRIPTION) && !description.is_empty() {
            infos.push(Info::Description(description));
        }
        for info in infos {
            self.reply(option, REP_INFO, &info.encode())?;
        }
        self.reply(option, REP_ACK, &[])?;
        Ok(match option {
            OPT_GO => Next::Go(self.session(&query.export, export)),
            _ => Next::Option,
        })
    }

    fn contexts(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let set = option == OPT_SET_META_CONTEXT;
        if set {
            // Whatever comes of this one, the former choice is gone.
            self.selected = None;
        }
        if !self.structured {
            let reason = "metadata contexts need structured replies";
            return self.refuse(option, REP_ERR_INVALID, reason);
        }
        let query = match ContextQuery::decode(data) {
            Ok(query) => query,
            Err(error) => return self.refuse(option, REP_ERR_INVALID, &error.to_string()),
        };
        let Some(export) = self.open(option, &query.export)? else {
            return Ok(());
        };
        let mut chosen = Vec::new();
        for (id, name) in (1..).zip(export.contexts()) {
            if set && query.selects(&name) {
                self.reply(option, REP_META_CONTEXT, &encode_context(id, &name))?;
                chosen.push((id, name));
            } else if !set && query.lists(&name) {
                self.reply(option, REP_META_CONTEXT, &encode_context(0, &name))?;
            }
        }
        if set {
            self.selected = Some((query.export, chosen));
        }
        self.reply(option, REP_ACK, &[])
    }

    /// The export of that name; without one the client has been told so.
    fn open(&self, option: u32, name: &str) -> io::Result<Option<Arc<dyn Export>>> {
        let export = self.catalogue.open(name);
        if export.is_none() {
            let reason = format!("there is no export '{name}'");
            self.refuse(option, REP_ERR_UNKNOWN, &reason)?;
        }
        Ok(export)
    }

    fn session(&mut self, name: &str, export: Arc<dyn Export>) -> Session {
        // Contexts of another export mean nothing here.
        let contexts = match self.selected.take() {
            Some((of, contexts)) if of == name => contexts,
            _ => Vec::new(),
        };
        Session { export, structured: self.structured, contexts }
    }

    fn transmission_flags(&self, export: &dyn Export) -> u16 {
        let mut flags = TX_HAS_FLAGS | TX_FLUSH | TX_FUA;
        flags |= match export.read_only() {
            true => TX_READ_ONLY,
            false => TX_TRIM | TX_WRITE_ZEROES,
        };
        if self.structured {
            flags |= TX_DF;
        }
        if export.multi_conn() {
            flags |= TX_MULTI_CONN;
        }
        flags
    }

    fn refuse(&self, option: u32, kind: u32, reason: &str) -> io::Result<()> {
        self.reply(option, kind, reason.as_bytes())
    }

    fn reply(&self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let header = OptionReply { option, kind, length: data.len() as u32 };
        self.socket.send(&mut [IoSlice::new(&header.encode()), IoSlice::new(data)])
    }
}
