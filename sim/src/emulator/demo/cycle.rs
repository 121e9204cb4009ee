// SPDX-License-Identifier: GPL-2.0-only
//! The cycle itself: a full copy of the first snapshot, then incremental rounds, each checked.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context as _};
use elioctl::request::{SetupSnapshot, TransitionToSnapshot};
use model::memory::BLOCK_SIZE;
use update_img::engine::Progress;
use update_img::update::{Observer, Phase, Prepared, Request, Witness};

use super::copy;
use super::interrupt::Interrupt;
use super::outcome::{Outcome, Round};
use super::proof;
use super::race::Race;
use super::stage::{Stage, DEVICE};
use super::story::{number, seconds, size, Story};
use super::stream;
use super::system::{Changes, System};
use super::tools::Tools;
use super::tree::Listing;
use super::{Arguments, Sabotage};

/// The snapshot's minor.
const MINOR: u32 = 0;
/// Name of its disk.
const SNAPSHOT: &str = "elastio-snap0";
/// Its URI, as typed in the demo's folder.
const SNAPSHOT_URI: &str = "'nbd+unix:///elastio-snap0?socket=disks'";

/// A copy-on-write file of the volume.
fn cow_file(snapshot: u64) -> String {
    format!("files/elastio-{snapshot}")
}

/// Runs the demo; what was made is gone at the end, unless all went well and it is to be kept.
pub fn run(arguments: &Arguments, story: Story, interrupt: Interrupt, outcome: &mut Outcome) -> anyhow::Result<()> {
    let mut stage = Stage::new(arguments.dir.as_deref())?;
    let tools = Tools::find(stage.path("output"), interrupt.clone())?;
    let result = play(&mut stage, &tools, arguments, story, interrupt, outcome);
    outcome.failures.extend(stage.stop());
    if arguments.keep && result.is_ok() {
        let root = stage.root().display().to_string();
        story.chapter(&format!("Everything is still in {root}. To go on by hand, there:"));
        story.typed(&serve_line());
        story.line("and in another terminal: elioctl --driver control list");
        outcome.kept = Some(root);
        stage.keep();
        return Ok(());
    }
    let removed = stage.remove();
    match (&result, &removed) {
        (Ok(()), Ok(())) => story.line("and everything the demo made was removed (--keep leaves it)"),
        (Err(_), Err(left)) => outcome.failures.push(format!("{left:#}")),
        _ => {}
    }
    result.and(removed)
}

fn serve_line() -> String {
    format!("elio-sim serve --device {DEVICE}=volume.img --cow-dir {DEVICE}=files --socket control --nbd unix:disks")
}

fn play(
    stage: &mut Stage,
    tools: &Tools,
    arguments: &Arguments,
    story: Story,
    interrupt: Interrupt,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    story.say("The backup cycle of elastio-snap, on a file system that is written to meanwhile: a snapshot, one");
    story.say(&format!("full copy of it, and {} of that copy, each of them proved.", updates(arguments.rounds)));
    story.say("No root and no kernel module: the driver's own logic runs here, over an image file, and serves");
    story.say("the disks as NBD. After a $ is what you would type; the demo does it with the same libraries.");
    story.say(&format!("Everything happens in {}", stage.root().display()));

    story.chapter("1  A volume with a file system");
    let began = Instant::now();
    let system = System::make(
        tools,
        interrupt.clone(),
        stage.path("generation.img"),
        stage.path("staging"),
        arguments.size,
        arguments.seed,
    )?;
    copy::file(system.image(), &stage.path("volume.img"), &interrupt)?;
    outcome.files = Some(system.listing().len() as u64);
    story.line(&format!(
        "ext4 of {}, {} files of {} in all, made in {}",
        size(outcome.device_bytes),
        number(system.listing().len()),
        size(system.content_bytes),
        seconds(began.elapsed())
    ));

    story.chapter("2  The driver");
    stage.serve()?;
    story.typed(&format!("{} &", serve_line()));
    story.typed("export ELIO_DRIVER=control");
    let driver = elioctl::Driver::open(&stage.path("control")).map_err(told)?;

    let mut cycle = Cycle {
        stage,
        tools,
        arguments,
        story,
        interrupt,
        system,
        driver,
        outcome,
        snapshot: 1,
        written: BTreeSet::new(),
    };
    cycle.first_backup()?;
    for number in 1..=arguments.rounds {
        if !cycle.outcome.failures.is_empty() {
            return Ok(());
        }
        cycle.round(number)?;
    }
    cycle.end()
}

fn updates(rounds: u32) -> String {
    format!("{rounds} incremental update{}", if rounds == 1 { "" } else { "s" })
}

/// An error of the driver's, with what it has to say.
fn told(error: elioctl::Error) -> anyhow::Error {
    match error.explanation() {
        Some(explanation) => anyhow!("{error}: {explanation}"),
        None => anyhow!("{error}"),
    }
}

struct Cycle<'a> {
    stage: &'a Stage,
    tools: &'a Tools,
    arguments: &'a Arguments,
    story: Story,
    interrupt: Interrupt,
    system: System<'a>,
    driver: elioctl::Driver,
    outcome: &'a mut Outcome,
    /// Number of the snapshot that is there, or was the last.
    snapshot: u64,
    /// Blocks written since it was taken.
    written: BTreeSet<u64>,
}

/// What the file system was when a snapshot was taken.
struct Moment {
    listing: Listing,
    expected_sha256: String,
    volume_right: bool,
}

impl Cycle<'_> {
    // --- steps ----------------------------------------------------------------------------

    /// Sends a command as elioctl would.
    fn command(
        &mut self,
        line: &str,
        send: impl Fn(&mut elioctl::Driver) -> Result<(), elioctl::Error>,
    ) -> anyhow::Result<()> {
        self.interrupt.check()?;
        let began = Instant::now();
        let result = loop {
            match send(&mut self.driver) {
                // The emulator may not have noticed yet that the last reader of the snapshot left.
                Err(error) if error.errno() == Some(model::errno::Errno::EBUSY) && began.elapsed().as_secs() < 2 => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => break result,
            }
        };
        result.map_err(told).with_context(|| format!("elioctl {line}"))?;
        self.story.command(&format!("elioctl {line}"), began.elapsed());
        Ok(())
    }

    /// What there is now. No writes are under way, as in a file system that is frozen.
    fn moment(&self) -> anyhow::Result<Moment> {
        let volume = self.stage.path("volume.img");
        let (expected_sha256, volume_right) = copy::digest_and_equal(self.system.image(), &volume, &self.interrupt)?;
        Ok(Moment { listing: self.system.listing().clone(), expected_sha256, volume_right })
    }

    /// Copies the snapshot with `copy`, while the volume is written to.
    fn race(&mut self, copy: impl FnOnce(&Race) -> anyhow::Result<(u64, u64)>) -> anyhow::Result<(Round, Changes)> {
        let changes = self.system.change(&self.stage.path("volume.img"))?;
        let race = Race::new(changes.blocks(), self.interrupt.clone());
        let began = Instant::now();
        let (copied, written, took) = std::thread::scope(|scope| {
            let live = self.stage.disk(DEVICE);
            let (changes, race, interrupt) = (&changes, &race, &self.interrupt);
            let image = self.system.image();
            let writer = scope.spawn(move || stream::write(&live, image, changes, race, interrupt));
            let copied = copy(race);
            race.copy_ended();
            let took = began.elapsed();
            (copied, writer.join(), took)
        });
        self.interrupt.check()?;
        let (changed_blocks, copied_bytes) = copied.context("copying the snapshot")?;
        written.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("writing to the volume")?;
        let status = self.driver.status(MINOR).map_err(told)?.context("the driver has no status")?;
        let round = Round {
            snapshot: self.snapshot,
            changed_blocks,
            copied_bytes,
            copy_seconds: took.as_secs_f64(),
            overwritten_while_copying: race.written_while_copying(),
            copies_kept: status.copied_blocks,
            ..Round::default()
        };
        Ok((round, changes))
    }

    /// Checks the backup against the snapshot, which is still there, and tells.
    fn prove(&mut self, round: &mut Round, moment: Moment) -> anyhow::Result<()> {
        if self.arguments.sabotage == Some(Sabotage::Image) && self.snapshot > 1 {
            let file = File::options().read(true).write(true).open(self.stage.path("backup.img"))?;
            let (mut byte, middle) = ([0], file.metadata()?.len() / 2);
            file.read_exact_at(&mut byte, middle)?;
            file.write_all_at(&[!byte[0]], middle)?;
        }
        let began = Instant::now();
        let (image, dump) = (self.stage.path("backup.img"), self.stage.path("dump"));
        let snapshot = self.stage.disk(SNAPSHOT);
        round.proof = proof::check(&snapshot, &image, &dump, &moment.listing, self.tools, &self.interrupt)?;
        (round.expected_sha256, round.volume_right) = (moment.expected_sha256, moment.volume_right);
        let mut failures = round.proof.failures.clone();
        if !round.volume_right {
            failures.push("the live volume is not what was written to it".into());
        }
        if round.proof.snapshot_sha256 != round.expected_sha256 {
            failures.push("the snapshot is not what the volume was when it was taken".into());
        }
        if round.overwritten_while_copying == 0 || round.copies_kept == 0 {
            failures.push("nothing was overwritten while the snapshot was copied".into());
        }
        let name = format!("snapshot {}", round.snapshot);
        self.outcome.failures.extend(failures.iter().map(|failure| format!("{name}: {failure}")));
        self.outcome.snapshot_sha256 = Some(round.proof.snapshot_sha256.clone());
        self.outcome.image_sha256 = Some(round.proof.image_sha256.clone());
        self.tell_proof(round, &failures, began.elapsed());
        Ok(())
    }

    fn tell_proof(&self, round: &Round, failures: &[String], took: Duration) {
        let proof = &round.proof;
        self.story.line(&format!("sha256 of the snapshot  {}", proof.snapshot_sha256));
        self.story.line(&format!("sha256 of the backup    {}", proof.image_sha256));
        if failures.is_empty() {
            self.story.line(&format!(
                "equal bit for bit, and as the volume was then; e2fsck -fn clean; {} of {} files right ({})",
                number(proof.files_equal),
                number(proof.files),
                seconds(took)
            ));
        }
        for failure in failures {
            self.story.line(&format!("WRONG: {failure}"));
        }
    }

    fn tell_race(&self, round: &Round, changes: &Changes) {
        self.story.line(&format!("meanwhile on the volume: {}", changes.words));
        self.story.line(&format!(
            "{} blocks overwritten while this copy ran; the old contents of {} kept for the snapshot",
            number(round.overwritten_while_copying),
            number(round.copies_kept)
        ));
    }

    // --- the cycle ------------------------------------------------------------------------

    fn first_backup(&mut self) -> anyhow::Result<()> {
        self.story.chapter("3  First backup: a snapshot, copied in full");
        let moment = self.moment()?;
        let setup = SetupSnapshot {
            block_device: format!("/dev/{DEVICE}").into(),
            cow_file: self.stage.path(&cow_file(1)),
            minor: MINOR,
            cow_mib: 0,
            cache_bytes: 0,
        };
        let line = format!("setup-snapshot /dev/{DEVICE} {} {MINOR}", cow_file(1));
        self.command(&line, |driver| driver.setup_snapshot(setup.clone()))?;
        let (snapshot, image) = (self.stage.disk(SNAPSHOT), self.stage.path("backup.img"));
        let interrupt = self.interrupt.clone();
        let (mut round, changes) = self.race(|race| {
            let bytes = copy::full(&snapshot, &image, race, &interrupt)?;
            Ok((bytes.div_ceil(BLOCK_SIZE as u64), bytes))
        })?;
        let took = Duration::from_secs_f64(round.copy_seconds);
        self.story.command(&format!("nbdcopy {SNAPSHOT_URI} backup.img"), took);
        self.story.line(&format!("copied {}, {}", size(round.copied_bytes), rate(round.copied_bytes, took)));
        self.tell_race(&round, &changes);
        self.prove(&mut round, moment)?;
        self.outcome.full_copy_bytes = Some(round.copied_bytes);
        self.outcome.full_copy = Some(round);
        self.written = changes.each().collect();
        Ok(())
    }

    /// The volume goes on, while and after the snapshot gives way to mere tracking.
    fn work(&mut self) -> anyhow::Result<()> {
        let changes = self.system.change(&self.stage.path("volume.img"))?;
        let race = Race::new(changes.blocks(), self.interrupt.clone());
        race.copy_begins();
        let (live, image, interrupt) =
            (self.stage.disk(DEVICE), self.system.image().to_owned(), self.interrupt.clone());
        let began = Instant::now();
        std::thread::scope(|scope| {
            let (changes, race) = (&changes, &race);
            let writer = scope.spawn(move || stream::write(&live, &image, changes, race, &interrupt));
            race.wait_for_writes();
            let line = format!("transition-to-incremental {MINOR}");
            let result = self.command(&line, |driver| driver.transition_to_incremental(MINOR));
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.and(written.context("writing to the volume"))
        })?;
        self.story.line(&format!("while the volume goes on: {}", changes.words));
        self.story.line(&format!(
            "{} blocks written in {}, a part of them while that command ran",
            number(changes.blocks()),
            seconds(began.elapsed())
        ));
        self.written.extend(changes.each());
        Ok(())
    }

    /// One incremental update of the backup.
    fn round(&mut self, turn: u32) -> anyhow::Result<()> {
        self.story.chapter(&format!("{}  Incremental update {turn} of {}", 3 + turn, self.arguments.rounds));
        self.work()?;
        let moment = self.moment()?;
        let (former, next) = (cow_file(self.snapshot), cow_file(self.snapshot + 1));
        let transition = TransitionToSnapshot { cow_file: self.stage.path(&next), minor: MINOR, cow_mib: 0 };
        self.command(&format!("transition-to-snapshot {next} {MINOR}"), |driver| {
            driver.transition_to_snapshot(transition.clone())
        })?;
        self.snapshot += 1;
        if turn == 1 {
            self.sabotage(&former)?;
        }
        let request = Request {
            snapshot: self.stage.disk(SNAPSHOT).to_string(),
            cow_file: self.stage.path(&former),
            older_cow_files: Vec::new(),
            image: self.stage.path("backup.img"),
            witness: Witness::Driver(self.stage.path("control")),
            grow: false,
            fresh_image: false,
            dry_run: false,
            verify: false,
        };
        let interrupt = self.interrupt.clone();
        let (mut round, changes) = self.race(|race| update(request, race, &interrupt))?;
        round.written_blocks = self.written.len() as u64;
        let took = Duration::from_secs_f64(round.copy_seconds);
        self.story.command(&format!("update-img {SNAPSHOT_URI} {former} backup.img"), took);
        self.story.line(&format!(
            "{} of {} blocks changed{}: copied {}, not {}",
            number(round.changed_blocks),
            number(self.outcome.device_bytes / BLOCK_SIZE as u64),
            if round.changed_blocks == round.written_blocks { ", exactly those that were written" } else { "" },
            size(round.copied_bytes),
            size(self.outcome.device_bytes),
        ));
        self.tell_race(&round, &changes);
        self.prove(&mut round, moment)?;
        std::fs::remove_file(self.stage.path(&former))?;
        self.story.typed(&format!("rm {former}"));
        self.written = changes.each().collect();
        self.outcome.rounds += 1;
        self.outcome.changed_blocks += round.changed_blocks;
        self.outcome.incremental_bytes += round.copied_bytes;
        self.outcome.round_details.push(round);
        Ok(())
    }

    /// Breaks what is to be broken before the update.
    fn sabotage(&self, former: &str) -> anyhow::Result<()> {
        let open = |name: &str| File::options().write(true).open(self.stage.path(name));
        match self.arguments.sabotage {
            Some(Sabotage::List) => {
                let block = self.written.iter().nth(self.written.len() / 2).context("nothing was written")?;
                open(former)?.write_all_at(&[0; 8], BLOCK_SIZE as u64 + 8 * block)?;
            }
            Some(Sabotage::Volume) => {
                let last = self.outcome.device_bytes - BLOCK_SIZE as u64;
                open("volume.img")?.write_all_at(&[0xa5; BLOCK_SIZE], last)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if !self.outcome.failures.is_empty() {
            return Ok(());
        }
        self.story.chapter(&format!("{}  The end", 4 + self.arguments.rounds));
        if !self.arguments.keep {
            self.command(&format!("destroy {MINOR}"), |driver| driver.destroy(MINOR))?;
            let left = std::fs::read_dir(self.stage.path("files"))?.count();
            ensure!(left == 0, "{left} file(s) of the driver are left after destroy");
        }
        let outcome = &*self.outcome;
        let full = outcome.device_bytes * u64::from(self.arguments.rounds);
        self.story.line(&format!(
            "{} copied {}, which is {} blocks;",
            updates(self.arguments.rounds),
            size(outcome.incremental_bytes),
            number(outcome.changed_blocks),
        ));
        self.story.line(&format!(
            "full copies would have been {}, {:.0} times as much",
            size(full),
            full as f64 / outcome.incremental_bytes.max(1) as f64
        ));
        self.story.line("after each, backup and snapshot were equal, though the volume was written to meanwhile");
        Ok(())
    }
}

/// Lets an update take part in a race.
struct Runner<'a> {
    race: &'a Race,
    total: u64,
}

impl Progress for Runner<'_> {
    fn advanced(&self, bytes: u64) {
        self.race.copied(bytes, self.total);
    }
}

impl Observer for Runner<'_> {
    fn begins(&self, _phase: Phase, _bytes: u64) {
        self.race.copy_begins();
    }
}

/// Brings the backup up to date, as update-img would. Gives the changed blocks and the bytes copied.
fn update(request: Request, race: &Race, interrupt: &Interrupt) -> anyhow::Result<(u64, u64)> {
    let advice = |error: update_img::Error| anyhow!("{error}; {}", error.advice());
    let prepared = Prepared::open(request).map_err(advice)?;
    let runner = Runner { race, total: prepared.list.blocks.bytes() };
    let changed = prepared.list.blocks.count();
    let report = prepared.run(&runner, interrupt.flag()).map_err(advice)?;
    if !report.is_success() {
        let failures: Vec<_> = report.failures.iter().map(ToString::to_string).collect();
        return Err(anyhow!("update-img failed: {} {:?}", failures.join(", "), report.snapshot_error));
    }
    Ok((changed, report.copied_bytes))
}

fn rate(bytes: u64, took: Duration) -> String {
    format!("{:.0} MiB/s", bytes as f64 / 1_048_576.0 / took.as_secs_f64().max(1e-6))
}
