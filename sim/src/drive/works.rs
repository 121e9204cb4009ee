// SPDX-License-Identifier: GPL-2.0-only
//! The drive: one thread that owns the medium, and two exports that bring it requests.
//!
//! The second export is the *board*: its first half is read by the machine and says what it is to do,
//! what is written to its second half is a note.
//!
//! Invariants: requests are carried out one at a time, in the order of the history. From the moment
//! at which the power goes no request is answered until [`Drive::cut`], which is to be called when the
//! machine is no more; changes that are on their way then are in flight, those of a sender that did
//! not get to send them never were. Between a cut and the next start nothing is changed: what a dead
//! machine's connection still holds is refused.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{channel, sync_channel, Receiver, Sender, SyncSender};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nbd::{Export, Extent};

use super::history::{Event, History, Kind};
use super::medium::{Medium, Pieces, SECTOR};
use crate::simulation::choice::{Choice, Seeded};

/// Size of the board (bytes); the notes are its second half.
pub const BOARD: u64 = 1 << 20;
/// Where notes are written (bytes).
pub const NOTES: u64 = BOARD / 2;
/// How long changes that are on their way have to arrive when the power goes.
const STRAGGLERS: Duration = Duration::from_millis(30);

/// Size of a region (bytes), for [`Moment::fresh`].
pub const REGION: u64 = 4 << 20;

/// When the power goes: at a change after a note of which `note` is a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The note.
    pub note: String,
    /// So many changes are made before the one that is in flight.
    pub changes: u64,
    /// Count only changes of regions of 4 MiB in which nothing changed since the last note of which this
    /// is a part.
    pub fresh: Option<String>,
}

/// What survives of the sectors that are in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Survival {
    /// Each sector as a coin says.
    Any,
    /// Almost nothing.
    Little,
    /// Almost everything.
    Much,
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
}

impl Survival {
    /// All of them.
    pub const ALL: [Survival; 5] =
        [Survival::Any, Survival::Little, Survival::Much, Survival::Nothing, Survival::Everything];
}

/// Decides by a [`Survival`]: the first candidate of a unit is what is durable, the last the newest.
#[derive(Debug)]
pub struct Leaning<'a> {
    /// Which way.
    pub survival: Survival,
    /// For what it leaves open.
    pub coins: &'a mut Seeded,
}

impl Choice for Leaning<'_> {
    fn below(&mut self, count: u32) -> u32 {
        let newest = count.saturating_sub(1);
        match self.survival {
            Survival::Any => self.coins.below(count),
            Survival::Nothing => 0,
            Survival::Everything => newest,
            Survival::Little if self.coins.below(16) > 0 => 0,
            Survival::Much if self.coins.below(16) > 0 => newest,
            Survival::Little | Survival::Much => self.coins.below(count),
        }
    }
}

/// What the drive tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A note.
    Note(String),
    /// The power is gone.
    Dead,
}

/// Sees each note before it is in the history and may put another one in its place; the machine waits
/// for it.
pub type Witness = Box<dyn FnMut(String) -> String + Send>;

enum Order {
    Watch(Witness),
    Read(u64, usize, SyncSender<io::Result<Vec<u8>>>),
    ReadBoard(u64, usize, SyncSender<io::Result<Vec<u8>>>),
    Change(Kind, u64, Content, bool, SyncSender<io::Result<Vec<u8>>>),
    Flush(SyncSender<io::Result<Vec<u8>>>),
    Note(String, SyncSender<io::Result<Vec<u8>>>),
    PowerOn(Vec<u8>, Option<Moment>, Sender<Told>),
    Cut(Survival, u64, SyncSender<()>),
    Look(Look),
}

/// Looks at what a drive has.
type Look = Box<dyn FnOnce(&mut Medium, &mut History) + Send>;

enum Content {
    Data(Vec<u8>),
    Zeroes(u64),
}

impl Content {
    fn length(&self) -> u64 {
        match self {
            Content::Data(data) => data.len() as u64,
            Content::Zeroes(length) => *length,
        }
    }
}

/// A drive.
pub struct Drive {
    orders: Sender<Order>,
    bytes: u64,
    thread: Option<JoinHandle<()>>,
}

impl Drive {
    /// A drive with what `make` makes, which is called on the drive's thread.
    pub fn new(bytes: u64, make: impl FnOnce() -> io::Result<Medium> + Send + 'static) -> io::Result<Drive> {
        let (orders, inbox) = channel();
        let (ready, is_ready) = sync_channel(1);
        let thread = thread::Builder::new().name("drive".into()).spawn(move || match make() {
            Ok(medium) => {
                let _ = ready.send(Ok(()));
                Works::new(medium).run(&inbox);
            }
            Err(error) => drop(ready.send(Err(error))),
        })?;
        is_ready.recv().map_err(gone)??;
        Ok(Drive { orders, bytes, thread: Some(thread) })
    }

    /// The drive itself.
    pub fn disk(&self) -> Arc<dyn Export> {
        Arc::new(Port { orders: self.orders.clone(), bytes: self.bytes, board: false })
    }

    /// The board.
    pub fn board(&self) -> Arc<dyn Export> {
        Arc::new(Port { orders: self.orders.clone(), bytes: BOARD, board: true })
    }

    /// Who sees the notes from now on.
    pub fn watch(&self, witness: impl FnMut(String) -> String + Send + 'static) {
        let _ = self.orders.send(Order::Watch(Box::new(witness)));
    }

    /// The machine is about to start: what the board says, when the power goes, and who is told.
    pub fn power_on(&self, board: &[u8], moment: Option<Moment>, tell: Sender<Told>) {
        let mut content = board.to_vec();
        content.resize(NOTES as usize, 0);
        let _ = self.orders.send(Order::PowerOn(content, moment, tell));
    }

    /// The machine is no more: chooses what survives.
    pub fn cut(&self, survival: Survival, seed: u64) {
        let (done, is_done) = sync_channel(1);
        let _ = self.orders.send(Order::Cut(survival, seed, done));
        let _ = is_done.recv();
    }

    /// Looks at the medium and the history.
    pub fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Medium, &mut History) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, is_done) = sync_channel(1);
        let look = Box::new(move |medium: &mut Medium, history: &mut History| {
            let _ = done.send(look(medium, history));
        });
        self.orders.send(Order::Look(look)).map_err(gone)?;
        is_done.recv().map_err(gone)
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        // The thread ends when the last sender is gone, which exports have, too.
        self.orders = channel().0;
        drop(self.thread.take());
    }
}

fn gone<E>(_: E) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the drive is gone")
}

/// What the drive's thread has.
struct Works {
    medium: Medium,
    history: History,
    board: Vec<u8>,
    witness: Witness,
    moment: Option<Moment>,
    /// Changes that are left until the power goes.
    left: Option<u64>,
    /// For a moment that counts fresh regions: since which note, and those that are not.
    since: Option<String>,
    touched: BTreeSet<u64>,
    /// Whom to tell; nobody while there is no power.
    tell: Option<Sender<Told>>,
}

impl Works {
    fn new(medium: Medium) -> Works {
        Works {
            medium,
            history: History::default(),
            board: vec![0; NOTES as usize],
            witness: Box::new(|note| note),
            moment: None,
            left: None,
            since: None,
            touched: BTreeSet::new(),
            tell: None,
        }
    }

    fn run(mut self, inbox: &Receiver<Order>) {
        while let Ok(order) = inbox.recv() {
            self.carry_out(order, inbox);
        }
    }

    fn carry_out(&mut self, order: Order, inbox: &Receiver<Order>) {
        match order {
            Order::Watch(witness) => self.witness = witness,
            Order::Read(offset, length, reply) => {
                let mut data = vec![0; length];
                self.medium.read(offset, &mut data);
                self.history.read_bytes += length as u64;
                let _ = reply.send(Ok(data));
            }
            Order::ReadBoard(offset, length, reply) => {
                let data = self.board.iter().copied().chain(std::iter::repeat(0));
                let _ = reply.send(Ok(data.skip(offset as usize).take(length).collect()));
            }
            Order::Change(.., reply) if self.tell.is_none() => drop(reply.send(Err(gone(())))),
            Order::Change(kind, offset, content, fua, reply) => {
                let pieces = self.record(kind, offset, &content);
                let fresh = self.touch(offset, content.length());
                if let Some(left) = self.left.as_mut().filter(|_| fresh || self.since.is_none()) {
                    match left.checked_sub(1) {
                        None => return self.die(pieces, reply, inbox),
                        Some(fewer) => *left = fewer,
                    }
                }
                self.medium.write(&pieces, fua);
                let _ = reply.send(Ok(Vec::new()));
            }
            Order::Flush(reply) | Order::Note(_, reply) if self.tell.is_none() => drop(reply.send(Err(gone(())))),
            Order::Flush(reply) => {
                self.history.events.push(Event::Flush);
                self.medium.flush();
                let _ = reply.send(Ok(Vec::new()));
            }
            Order::Note(note, reply) => {
                let note = (self.witness)(note);
                self.history.events.push(Event::Note(note.clone()));
                if self.since.as_ref().is_some_and(|since| note.contains(since)) {
                    self.touched.clear();
                }
                if let Some(moment) = self.moment.take_if(|moment| note.contains(&moment.note)) {
                    self.left = Some(moment.changes);
                }
                let _ = self.tell.as_ref().map(|tell| tell.send(Told::Note(note)));
                let _ = reply.send(Ok(Vec::new()));
            }
            Order::PowerOn(board, moment, tell) => {
                self.board = board;
                self.since = moment.as_ref().and_then(|moment| moment.fresh.clone());
                self.touched.clear();
                self.moment = moment;
                self.left = None;
                self.tell = Some(tell);
            }
            Order::Cut(survival, seed, done) => {
                self.cut(&[], survival, seed);
                let _ = done.send(());
            }
            Order::Look(look) => look(&mut self.medium, &mut self.history),
        }
    }

    /// Whether the first region of a change is fresh; it is not any more.
    fn touch(&mut self, offset: u64, length: u64) -> bool {
        let mut regions = offset / REGION..(offset + length).div_ceil(REGION);
        let fresh = regions.next().is_some_and(|region| self.touched.insert(region));
        self.touched.extend(regions);
        fresh
    }

    fn record(&mut self, kind: Kind, offset: u64, content: &Content) -> Pieces {
        self.history.events.push(Event::Change(kind, offset, content.length()));
        match content {
            Content::Data(data) => self.medium.pieces(offset, data),
            Content::Zeroes(length) => self.medium.zeroes(offset, *length),
        }
    }

    fn cut(&mut self, flying: &[Pieces], survival: Survival, seed: u64) {
        self.history.events.push(Event::Cut);
        self.left = None;
        self.moment = None;
        self.tell = None;
        self.medium.cut(flying, &mut Leaning { survival, coins: &mut Seeded::new(seed) });
    }

    /// The power goes: nobody is answered until the machine is no more.
    fn die(&mut self, first: Pieces, reply: SyncSender<io::Result<Vec<u8>>>, inbox: &Receiver<Order>) {
        let mut flying = vec![first];
        let mut unanswered = vec![reply];
        let until = Instant::now() + STRAGGLERS;
        let mut told = false;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let order = if told { inbox.recv().ok() } else { inbox.recv_timeout(left).ok() };
            match order {
                Some(Order::Change(kind, offset, content, _, reply)) => {
                    // What comes later comes from a machine that is being ended.
                    if !told {
                        flying.push(self.record(kind, offset, &content));
                    }
                    unanswered.push(reply);
                }
                Some(Order::Read(_, _, reply) | Order::ReadBoard(_, _, reply)) => unanswered.push(reply),
                Some(Order::Flush(reply) | Order::Note(_, reply)) => unanswered.push(reply),
                Some(Order::Cut(survival, seed, done)) => {
                    self.cut(&flying, survival, seed);
                    let _ = done.send(());
                    return;
                }
                Some(Order::Look(look)) => look(&mut self.medium, &mut self.history),
                Some(Order::PowerOn(..) | Order::Watch(_)) => {}
                None if told => return,
                None => {
                    told = true;
                    let _ = self.tell.as_ref().map(|tell| tell.send(Told::Dead));
                }
            }
        }
    }
}

/// One of the two exports.
struct Port {
    orders: Sender<Order>,
    bytes: u64,
    board: bool,
}

impl Port {
    fn ask(&self, order: impl FnOnce(SyncSender<io::Result<Vec<u8>>>) -> Order) -> io::Result<Vec<u8>> {
        let (reply, answer) = sync_channel(1);
        self.orders.send(order(reply)).map_err(gone)?;
        answer.recv().map_err(gone)?
    }

    fn change(&self, kind: Kind, offset: u64, content: Content, fua: bool) -> io::Result<()> {
        match (self.board, content) {
            (false, content) => self.ask(|reply| Order::Change(kind, offset, content, fua, reply)).map(drop),
            (true, Content::Data(data)) if offset == NOTES => {
                let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
                let note = String::from_utf8_lossy(&data[..end]).into_owned();
                self.ask(|reply| Order::Note(note, reply)).map(drop)
            }
            (true, _) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Export for Port {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn read_only(&self) -> bool {
        false
    }

    fn min_block(&self) -> u32 {
        SECTOR as u32
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let length = buf.len();
        let data = self.ask(|reply| match self.board {
            true => Order::ReadBoard(offset, length, reply),
            false => Order::Read(offset, length, reply),
        })?;
        buf.copy_from_slice(&data);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        let kind = if fua { Kind::Fua } else { Kind::Write };
        self.change(kind, offset, Content::Data(data.to_vec()), fua)
    }

    fn flush(&self) -> io::Result<()> {
        match self.board {
            true => Ok(()),
            false => self.ask(Order::Flush).map(drop),
        }
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> io::Result<()> {
        self.change(Kind::Trim, offset, Content::Zeroes(len), fua)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: bool, fua: bool) -> io::Result<()> {
        self.change(Kind::Zeroes, offset, Content::Zeroes(len), fua)
    }

    fn contexts(&self) -> Vec<String> {
        Vec::new()
    }

    fn block_status(&self, _: &str, _: u64, _: u64) -> io::Result<Vec<Extent>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(drive: &Drive, at: u64) -> u8 {
        let mut sector = [0; 512];
        drive.disk().read(at * SECTOR, &mut sector).unwrap();
        sector[0]
    }

    #[test]
    fn the_power_goes_at_its_moment_and_nobody_is_answered() {
        let drive = Drive::new(1 << 20, || Ok(Medium::new(1 << 20, 1))).unwrap();
        let (tell, told) = channel();
        drive.power_on(b"do it", Some(Moment { note: "now".into(), changes: 1, fresh: None }), tell);
        drive.watch(|note| note.replace("later", "now"));
        let mut plan = [0; 512];
        drive.board().read(0, &mut plan).unwrap();
        assert_eq!(&plan[..6], b"do it\0");
        let disk = drive.disk();
        disk.write(0, &[1; 512], false).unwrap();
        disk.flush().unwrap();
        let mut note = [0; 512];
        note[..5].copy_from_slice(b"later");
        drive.board().write(NOTES, &note, false).unwrap();
        assert_eq!(told.recv().unwrap(), Told::Note("now".into()));
        disk.write(512, &[1; 512], true).unwrap();
        let last = {
            let disk = drive.disk();
            thread::spawn(move || disk.write(0, &[2; 512], true))
        };
        assert_eq!(told.recv().unwrap(), Told::Dead);
        let late = thread::spawn(move || disk.write(1024, &[3; 512], true));
        drive.cut(Survival::Nothing, 0);
        assert!(last.join().unwrap().is_err());
        assert!(late.join().unwrap().is_err());
        assert_eq!([0, 1, 2].map(|at| sector(&drive, at)), [1, 1, 0]);
        let events = drive.look(|_, history| history.events.clone()).unwrap();
        let change = |kind, sector: u64| Event::Change(kind, sector * 512, 512);
        let expected = [
            change(Kind::Write, 0),
            Event::Flush,
            Event::Note("now".into()),
            change(Kind::Fua, 1),
            change(Kind::Fua, 0),
            Event::Cut,
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn a_moment_may_count_fresh_regions() {
        let drive = Drive::new(64 << 20, || Ok(Medium::new(64 << 20, 1))).unwrap();
        let (tell, told) = channel();
        let moment = Moment { note: "go".into(), changes: 1, fresh: Some("since".into()) };
        drive.power_on(b"", Some(moment), tell);
        let note = |text: &str| {
            let mut note = [0; 512];
            note[..text.len()].copy_from_slice(text.as_bytes());
            drive.board().write(NOTES, &note, false).unwrap();
        };
        let disk = drive.disk();
        disk.write(0, &[1; 512], false).unwrap();
        disk.write(REGION, &[1; 512], false).unwrap();
        note("since");
        disk.write(REGION, &[1; 512], false).unwrap();
        note("go");
        // Not fresh; fresh, and one is allowed; not fresh.
        for offset in [REGION + 512, 0, 4096] {
            disk.write(offset, &[1; 512], false).unwrap();
        }
        let last = thread::spawn(move || disk.trim(3 * REGION - 512, 1024, false));
        assert_eq!(told.iter().nth(2), Some(Told::Dead));
        drive.cut(Survival::Any, 1);
        assert!(last.join().unwrap().is_err());
    }

    #[test]
    fn what_is_in_flight_may_survive() {
        let drive = Drive::new(1 << 20, || Ok(Medium::new(1 << 20, 1))).unwrap();
        let (tell, told) = channel();
        drive.power_on(b"", Some(Moment::default()), tell);
        drive.board().write(NOTES, &[0; 512], false).unwrap();
        let disk = drive.disk();
        let last = thread::spawn(move || disk.write_zeroes(0, 512, true, false));
        assert_eq!(told.iter().nth(1), Some(Told::Dead));
        drive.cut(Survival::Everything, 0);
        assert!(last.join().unwrap().is_err());
        assert_eq!(sector(&drive, 0), 0);
    }
}
