// SPDX-License-Identifier: GPL-2.0-only
//! What the user sees: the lines of the C tool, the progress bar, the JSON object.
//!
//! Contract: stdout holds the human lines or the one JSON object, never both; all else goes to
//! stderr. A reader that went away does not stop a copy.

use crate::cli::Arguments;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::verdict::Verdict;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::Instant;
use update_img::change_list::ChangeList;
use update_img::engine::{Failure, Progress};
use update_img::error::Blame;
use update_img::update::{Observer, Phase, Prepared, Report};
use update_img::Error;

/// The version of the JSON object.
const SCHEMA: u32 = 1;

/// Writes a line to stdout; should nobody read it, that is no reason to leave an image half done.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Writes a line to stderr.
fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "update-img: {line}");
}

#[derive(Serialize)]
struct JsonFailure {
    block: u64,
    count: u64,
    operation: &'static str,
    cause: String,
}

#[derive(Serialize)]
struct JsonVerdict {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    excess_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Serialize)]
struct JsonError {
    kind: &'static str,
    message: String,
    advice: String,
}

impl From<&Error> for JsonError {
    fn from(error: &Error) -> JsonError {
        JsonError { kind: error.kind(), message: error.to_string(), advice: error.advice() }
    }
}

/// The JSON object. What is not known, because an error came first, is null.
#[derive(Default, Serialize)]
struct Json {
    schema: u32,
    result: &'static str,
    dry_run: bool,
    device_bytes: Option<u64>,
    device_blocks: Option<u64>,
    uuid: Option<String>,
    first_seqid: Option<u64>,
    last_seqid: Option<u64>,
    verdict: Option<JsonVerdict>,
    changed_blocks: Option<u64>,
    changed_bytes: Option<u64>,
    extents: Option<u64>,
    copied_blocks: u64,
    copied_bytes: u64,
    grown_bytes: u64,
    failed_block_count: u64,
    failed_blocks: Vec<JsonFailure>,
    verified: Option<bool>,
    warnings: Vec<String>,
    error: Option<JsonError>,
    elapsed_seconds: f64,
}

/// Tells the user.
pub struct Reporter {
    json: Option<Mutex<Json>>,
    quiet: bool,
    dry_run: bool,
    began: Instant,
    bar: ProgressBar,
    changed_blocks: u64,
}

impl Reporter {
    /// A reporter as the arguments ask for it.
    pub fn new(arguments: &Arguments, dry_run: bool) -> Reporter {
        let target = if arguments.quiet || !io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(5)
        };
        let json = arguments.json.then(|| Mutex::new(Json { schema: SCHEMA, dry_run, ..Json::default() }));
        Reporter {
            json,
            quiet: arguments.quiet,
            dry_run,
            began: Instant::now(),
            bar: ProgressBar::with_draw_target(None, target),
            changed_blocks: 0,
        }
    }

    fn line(&self, text: &str) {
        if !self.quiet && self.json.is_none() {
            say(text);
        }
    }

    fn note(&self, change: impl FnOnce(&mut Json)) {
        if let Some(Ok(mut json)) = self.json.as_ref().map(Mutex::lock) {
            change(&mut json);
        }
    }

    fn print_json(&self, result: &'static str) {
        self.note(|json| {
            json.result = result;
            json.elapsed_seconds = self.began.elapsed().as_secs_f64();
            // There is nothing in the object that could not be serialised.
            say(&serde_json::to_string(json).unwrap_or_default());
        });
    }

    /// Everything is checked.
    pub fn prepared(&mut self, prepared: &Prepared) {
        let (list, geometry) = (&prepared.list, prepared.geometry());
        self.changed_blocks = list.blocks.count();
        let (bytes, extents) = (list.blocks.bytes(), list.blocks.extents().count() as u64);
        self.note(|json| {
            json.device_bytes = Some(geometry.device_bytes());
            json.device_blocks = Some(geometry.blocks());
            json.uuid = Some(list.series.to_string());
            json.first_seqid = Some(list.first_seqid);
            json.last_seqid = Some(list.last_seqid);
            json.verdict = Some(json_verdict(list));
            json.changed_blocks = Some(list.blocks.count());
            json.changed_bytes = Some(bytes);
            json.extents = Some(extents);
            json.warnings.clone_from(&list.warnings);
        });
        for warning in &list.warnings {
            complain(&format!("warning: {warning}"));
        }
        if list.verdict != Verdict::Exact && !self.quiet {
            complain(&format!("note: the change list is {}", list.verdict_text()));
        }
        self.line(&format!("snapshot is {} blocks large", geometry.blocks()));
        if self.dry_run {
            self.line(&format!("would copy {} blocks ({bytes} bytes) in {extents} extents", self.changed_blocks));
            if prepared.missing_bytes > 0 {
                self.line(&format!("would grow the image by {} bytes", prepared.missing_bytes));
            }
        }
    }

    /// The end, and the exit code.
    pub fn finished(&self, report: &Report) -> u8 {
        self.bar.finish_and_clear();
        let failed = report.failed_blocks();
        self.note(|json| {
            json.copied_blocks = report.copied_blocks;
            json.copied_bytes = report.copied_bytes;
            json.grown_bytes = report.grown_bytes;
            json.failed_block_count = failed;
            json.failed_blocks = report.failures.iter().map(json_failure).collect();
            json.verified = report.verified;
            json.error = report.snapshot_error.as_ref().map(JsonError::from);
            if let Some(cause) = &report.flush_error {
                json.error = Some(JsonError {
                    kind: "flush",
                    message: format!("image: flushing it failed: {cause}"),
                    advice: FLUSH_ADVICE.into(),
                });
            }
            json.warnings.extend(report.note_error.as_ref().map(note_warning));
        });
        for failure in &report.failures {
            complain(&failure.to_string());
        }
        if let Some(cause) = &report.flush_error {
            complain(&format!("image: flushing it failed: {cause}; {FLUSH_ADVICE}"));
        }
        if let Some(error) = &report.snapshot_error {
            complain(&format!("{error}; what was copied is of no use: {}", error.advice()));
        }
        if let Some(cause) = &report.note_error {
            complain(&format!("warning: {}", note_warning(cause)));
        }
        if !self.dry_run && !report.interrupted {
            self.line(&format!("copying complete: {} blocks changed, {failed} errors", self.changed_blocks));
            if report.verified == Some(true) {
                self.line("verified: the copied blocks are those of the snapshot");
            }
        }
        if report.interrupted {
            complain(&format!(
                "interrupted after {} of {} blocks: the image is between two snapshots; run the same command \
                again, that is safe",
                report.copied_blocks, self.changed_blocks
            ));
        } else if failed > 0 {
            complain(&format!(
                "{failed} blocks are not as in the snapshot; see dmesg for the cause and run the same command again"
            ));
        }
        let result = match (report.interrupted, report.is_success()) {
            (true, _) => "interrupted",
            (false, true) => "done",
            (false, false) => "failed",
        };
        self.print_json(result);
        u8::from(!report.is_success())
    }

    /// It could not begin; gives the exit code.
    pub fn failed(&self, error: &Error) -> u8 {
        self.bar.finish_and_clear();
        complain(&format!("{error}; {}", error.advice()));
        self.note(|json| json.error = Some(error.into()));
        self.print_json(if matches!(error, Error::Interrupted) { "interrupted" } else { "error" });
        match error.blame() {
            Blame::State => 1,
            Blame::Usage => 2,
        }
    }
}

const FLUSH_ADVICE: &str = "nothing that was copied counts as safe; run the same command again";

fn note_warning(cause: &io::Error) -> String {
    format!("image: noting which snapshot it holds failed: {cause}; it is up to date all the same")
}

fn json_failure(failure: &Failure) -> JsonFailure {
    JsonFailure {
        block: failure.extent.first,
        count: failure.extent.count,
        operation: failure.operation.name(),
        cause: failure.cause.to_string(),
    }
}

fn json_verdict(list: &ChangeList) -> JsonVerdict {
    match list.verdict {
        Verdict::Exact => JsonVerdict { kind: "exact", excess_bytes: None, reason: None },
        Verdict::Bounded(bytes) => JsonVerdict { kind: "bounded", excess_bytes: Some(bytes), reason: None },
        Verdict::Lost(reason) => JsonVerdict { kind: "lost", excess_bytes: None, reason: Some(reason.text()) },
    }
}

impl Progress for Reporter {
    fn advanced(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

impl Observer for Reporter {
    fn begins(&self, phase: Phase, bytes: u64) {
        let name = match phase {
            Phase::Growing => "growing the image",
            Phase::Copying => "copying blocks",
            Phase::Comparing => "comparing blocks",
        };
        self.line(name);
        if phase == Phase::Growing {
            return;
        }
        let style = "{msg} {wide_bar} {bytes} of {total_bytes} ({bytes_per_sec}, {eta})";
        if let Ok(style) = ProgressStyle::with_template(style) {
            self.bar.set_style(style);
        }
        self.bar.set_length(bytes);
        self.bar.reset();
        self.bar.set_message(name);
    }
}
