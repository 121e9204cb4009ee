// SPDX-License-Identifier: GPL-2.0-only
//! The command line as clap knows it: help, completions and the manual page come from here.
//!
//! Invariant: the three positional arguments have the order of the C tool.

use clap::{ArgAction, Command, CommandFactory, FromArgMatches, Parser, ValueEnum};
use clap_complete::Shell;
use model::abi::CONTROL_NODE;
use std::io;
use std::path::PathBuf;
use update_img::update::{Request, Witness};

/// Bring a backup image up to date by copying only the blocks that changed
///
/// Copies the blocks that COW_FILE lists from SNAPSHOT to IMAGE. Take a snapshot and copy it in full
/// once; from then on transition-to-incremental, transition-to-snapshot and update-img keep the copy
/// up to date. Everything is checked before the first byte of the image is written, only listed blocks
/// are written, and success means that the image is on its medium.
#[derive(Debug, Parser)]
#[command(name = "update-img", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Arguments {
    /// The snapshot to copy from: a block device, an NBD URI (nbd://HOST/EXPORT,
    /// nbd+unix:///EXPORT?socket=PATH) or a file
    snapshot: String,

    /// The copy-on-write file of the snapshot before that one, which lists the blocks that changed
    cow_file: PathBuf,

    /// The image to bring up to date: the earlier copy, a file or a block device
    image: PathBuf,

    /// An older COW file of the same series, when the image is more than one snapshot behind; may be repeated
    #[arg(long, value_name = "COW_FILE")]
    also: Vec<PathBuf>,

    /// The COW file that SNAPSHOT itself is kept in, which tells the series and number of the snapshot
    /// when no driver does
    #[arg(long, value_name = "COW_FILE", conflicts_with = "no_series_check")]
    new_cow: Option<PathBuf>,

    /// Copy without knowing that COW_FILE belongs to SNAPSHOT and IMAGE; if it does not, the image is ruined
    #[arg(long)]
    no_series_check: bool,

    /// The driver's control node or an emulator's socket, which is asked about the snapshot
    #[arg(long, value_name = "PATH", env = "ELIO_DRIVER", hide_env_values = true, default_value = CONTROL_NODE)]
    driver: PathBuf,

    /// IMAGE was copied in full from the snapshot of COW_FILE since the last run: forget what was noted of it
    #[arg(long)]
    fresh_image: bool,

    /// Make the image larger if the device is larger than it
    #[arg(long)]
    grow: bool,

    /// Check everything and say what would be copied, but write nothing
    #[arg(long, short = 'n', conflicts_with = "verify")]
    dry_run: bool,

    /// Read the copied blocks again from both sides and compare them
    #[arg(long)]
    verify: bool,

    /// Print one JSON object at the end, also in case of an error, and nothing else on stdout
    #[arg(long)]
    pub json: bool,

    /// Print errors only
    #[arg(long, short)]
    pub quiet: bool,

    /// Write the manual page or a shell's completions to stdout
    #[arg(long, value_name = "WHAT", hide = true, exclusive = true, action = ArgAction::Set)]
    generate: Option<Document>,
}

/// What can be made from the command line's definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Document {
    Man,
    CompletionsBash,
    CompletionsFish,
    CompletionsZsh,
}

/// What a command line asks for.
pub enum Asked {
    /// An update.
    Update(Arguments),
    /// A document.
    Document(Document),
}

/// Reads the command line; wrong usage and --help end the program.
pub fn parse() -> Asked {
    let matches = command().get_matches();
    // Being exclusive, it comes without the arguments that are required otherwise.
    if let Some(document) = matches.get_one("generate") {
        return Asked::Document(*document);
    }
    match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => Asked::Update(arguments),
        Err(error) => error.exit(),
    }
}

impl Arguments {
    /// The update.
    pub fn request(&self) -> Request {
        let witness = match (&self.new_cow, self.no_series_check) {
            (_, true) => Witness::Waived,
            (Some(path), false) => Witness::NewCowFile(path.clone()),
            (None, false) => Witness::Driver(self.driver.clone()),
        };
        Request {
            snapshot: self.snapshot.clone(),
            cow_file: self.cow_file.clone(),
            older_cow_files: self.also.clone(),
            image: self.image.clone(),
            witness,
            grow: self.grow,
            fresh_image: self.fresh_image,
            dry_run: self.dry_run,
            verify: self.verify,
        }
    }
}

/// What the manual page says beyond the options: titles and paragraphs.
const SECTIONS: &[(&str, &[&str])] = &[
    (
        "WHICH SNAPSHOT",
        &[
            "COW_FILE must be of the snapshot just before SNAPSHOT, in the same series. For \
                 /dev/elastio-snap<minor>, and \
             for an NBD export of that name, the driver is asked (--driver). For any other file or export \
             give --new-cow, or take the responsibility with --no-series-check.",
            "COW_FILE is finished by elioctl transition-to-snapshot. If a crash kept the driver from completing \
                 the list \
             in it, the list is derived from the marks in the file: then it may name more blocks than changed, never \
             fewer. Files of the C driver are read, too.",
            "If the machine crashed while in snapshot mode, or an update was missed, the image is several snapshots \
             behind: give the newest file as COW_FILE and each older one with --also.",
        ],
    ),
    (
        "INTERRUPTION",
        &[
            "On SIGINT and SIGTERM the current requests are finished, the image is flushed, and the exit code is 1. \
             Running the same command again is safe, after a power cut, too: neither the snapshot nor the COW files \
             change, and copying a block twice does no harm. Until then the image is between two snapshots.",
            "A note on the image (the extended attribute user.elastio-snap.image) says which snapshot it holds, so \
             that another list than the one it needs is refused. There is no such note on a block device, on a file \
             system without user attributes, and on a copy made without them.",
            "The image is locked (flock) against a second update-img.",
        ],
    ),
    (
        "OUTPUT",
        &[
            "On stdout: the size of the snapshot in blocks of 4096 bytes, the beginning of the copy, and how \
                 many blocks \
             changed and failed. A progress bar goes to stderr if that is a terminal. Every block that could not be \
             copied, or with --verify differs, is listed on stderr.",
            "With --json, stdout gets one object instead; its field \"schema\" is 1, \"result\" is done, failed, \
             interrupted or error, and \"failed_blocks\" lists the blocks.",
        ],
    ),
    (
        "EXIT STATUS",
        &["0: the image is the snapshot now, durably. 1: something failed, or the copy was interrupted. 2: \
                 wrong usage."],
    ),
    (
        "EXAMPLES",
        &[
            "elioctl transition-to-snapshot /.elastio1 0 && update-img /dev/elastio-snap0 /.elastio /backups/sda1-bkp",
            "update-img --driver /run/elio-sim.sock 'nbd+unix:///elastio-snap0?socket=/run/nbd.sock' cow0 image",
        ],
    ),
    ("SEE ALSO", &["elioctl(8), dd(1)"]),
];

/// The definition, as documents and the parser see it.
fn command() -> Command {
    Arguments::command()
}

/// Writes a document.
pub fn write_document(document: Document, out: &mut dyn io::Write) -> io::Result<()> {
    let shell = match document {
        Document::Man => return write_man(out),
        Document::CompletionsBash => Shell::Bash,
        Document::CompletionsFish => Shell::Fish,
        Document::CompletionsZsh => Shell::Zsh,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "update-img", &mut script);
    out.write_all(&script)
}

fn write_man(mut out: &mut dyn io::Write) -> io::Result<()> {
    let man = clap_mangen::Man::new(command()).section("8").manual("elastio-snap").source("elastio-snap");
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    for (title, paragraphs) in SECTIONS {
        writeln!(out, ".SH \"{title}\"")?;
        for paragraph in *paragraphs {
            // A line of text that begins with a dot or a quote would be taken for a request.
            let text = paragraph.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
            writeln!(out, ".PP\n\\&{text}")?;
        }
    }
    Ok(())
}
