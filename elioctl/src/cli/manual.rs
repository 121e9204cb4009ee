// SPDX-License-Identifier: GPL-2.0-only
//! The manual page, from the same definition as the help.
//!
//! Contract: the page depends on the definition only (no date, no environment), so that the checked
//! in copy can be compared byte for byte.

use super::arguments::Arguments;
use clap::{Arg, Command, CommandFactory};
use clap_mangen::roff::{bold, italic, roman, Inline, Roff};

fn placeholder(argument: &Arg) -> String {
    let name = argument.get_value_names().and_then(|names| names.first());
    name.map_or_else(|| argument.get_id().to_string(), ToString::to_string)
}

fn takes_value(argument: &Arg) -> bool {
    argument.get_action().takes_values()
}

/// The options and positionals of a command itself, in the order of its definition.
fn own_arguments(command: &Command) -> Vec<&Arg> {
    let builtin =
        |argument: &Arg| argument.is_global_set() || ["help", "version"].contains(&argument.get_id().as_str());
    command.get_arguments().filter(|argument| !builtin(argument)).collect()
}

fn synopsis(command: &Command, prefix: &str) -> Vec<Inline> {
    let mut line = vec![bold(format!("{prefix}{}", command.get_name()))];
    for argument in own_arguments(command) {
        let short = argument.get_short().map(|short| format!("-{short}"));
        let Some(name) = short.or_else(|| argument.get_long().map(|long| format!("--{long}"))) else {
            line.extend([roman(" "), italic(placeholder(argument))]);
            continue;
        };
        line.extend([roman(" ["), bold(name)]);
        if takes_value(argument) {
            line.extend([roman(" "), italic(placeholder(argument))]);
        }
        line.push(roman("]"));
    }
    line
}

fn heading(argument: &Arg) -> Vec<Inline> {
    let mut line = Vec::new();
    if let Some(short) = argument.get_short() {
        line.extend([bold(format!("-{short}")), roman(", ")]);
    }
    match argument.get_long() {
        Some(long) => line.push(bold(format!("--{long}"))),
        None => line.push(italic(placeholder(argument))),
    }
    if argument.get_long().is_some() && takes_value(argument) {
        line.extend([roman(" "), italic(placeholder(argument))]);
    }
    line
}

fn argument(page: &mut Roff, argument: &Arg) {
    page.control("TP", []).text(heading(argument));
    let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let default = argument.get_default_values().first();
    if let Some(default) = default.filter(|_| takes_value(argument)) {
        help.push_str(&format!(" [default: {}]", default.to_string_lossy()));
    }
    if let Some(variable) = argument.get_env() {
        help.push_str(&format!(" [environment: {}]", variable.to_string_lossy()));
    }
    page.text([roman(help)]);
}

fn paragraphs(page: &mut Roff, text: &str) {
    for paragraph in text.split("\n\n") {
        page.control("PP", []).text([roman(paragraph.replace('\n', " "))]);
    }
}

fn terms(page: &mut Roff, terms: &[(&str, &str)]) {
    for (term, meaning) in terms {
        page.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
    }
}

/// The page elioctl(8) as roff.
pub fn page() -> Vec<u8> {
    let mut definition = Arguments::command();
    definition.build();
    let mut page = Roff::new();
    let version = definition.get_version().unwrap_or_default();
    let title = ["ELIOCTL", "8", "", &format!("elioctl {version}"), "elastio-snap"];
    page.control("TH", title);

    let about = definition.get_about().map(ToString::to_string).unwrap_or_default();
    page.control("SH", ["NAME"]).text([roman(format!("elioctl - {about}"))]);
    page.control("SH", ["SYNOPSIS"]).text([
        bold("elioctl"),
        roman(" ["),
        italic("options"),
        roman("] "),
        italic("sub-command"),
        roman(" ["),
        italic("arguments"),
        roman("]"),
    ]);
    page.control("SH", ["DESCRIPTION"]);
    let long = definition.get_long_about().map(ToString::to_string).unwrap_or_default();
    // The first paragraph of the long text is the short one, which NAME has already.
    paragraphs(&mut page, long.split_once("\n\n").map_or(long.as_str(), |(_, rest)| rest));
    paragraphs(
        &mut page,
        "A snapshot or incremental is known by its minor: the snapshot of minor 4 is the block \
         device /dev/elastio-snap4.\n\nOptions may come before or behind the other arguments. \
         Numbers are decimal, also with leading zeros. Sizes are in MiB (1048576 bytes), so that \
         -c 300 is the driver's default of 314572800 bytes; with one of the units K, M, G, T or \
         KiB, MiB, GiB, TiB they are powers of 1024. A path that begins with a dash goes behind \
         --.",
    );

    page.control("SH", ["OPTIONS"]);
    for option in definition.get_arguments() {
        argument(&mut page, option);
    }

    page.control("SH", ["SUB-COMMANDS"]);
    for command in definition.get_subcommands().filter(|command| !command.is_hide_set()) {
        page.control("SS", [command.get_name()]);
        page.text(synopsis(command, "elioctl "));
        let about = command.get_long_about().or_else(|| command.get_about());
        let about = about.map(ToString::to_string).unwrap_or_default();
        let sentences: Vec<String> =
            about.split("\n\n").map(|paragraph| format!("{}.", paragraph.trim_end_matches('.'))).collect();
        paragraphs(&mut page, &sentences.join("\n\n"));
        if command.get_name() != "help" {
            for one in own_arguments(command) {
                argument(&mut page, one);
            }
        }
    }

    page.control("SH", ["EXIT STATUS"]);
    terms(
        &mut page,
        &[
            ("0", "Done. Commands that change something print nothing."),
            ("1", "The driver could not be reached, refused or failed. stderr says what to do next."),
            ("2", "Wrong usage; nothing was done."),
        ],
    );
    page.control("SH", ["ENVIRONMENT"]);
    terms(&mut page, &[("ELIO_DRIVER", "The control node or socket to use unless --driver is given.")]);
    page.control("SH", ["FILES"]);
    terms(
        &mut page,
        &[
            ("/dev/elastio-snap-ctl", "The driver's control node. Using it takes CAP_SYS_ADMIN."),
            ("/dev/elastio-snap<minor>", "A snapshot, read-only."),
            ("/proc/elastio-info, /proc/elastio-snap-info", "All snapshots and incrementals, as JSON."),
            (
                "/etc/elastio-snap/volumes",
                "The volumes that arm expects, a line each: the device as UUID=..., LABEL=..., PARTUUID=..., \
                 PARTLABEL=... or a path; the copy-on-write file from the volume's mount point, in whose last \
                 part * stands for any characters; the minor.",
            ),
            ("/run/elastio-snap/refused", "What arm could not expect since the boot."),
        ],
    );
    page.control("SH", ["EXAMPLES"]);
    terms(
        &mut page,
        &[
            (
                "elioctl setup-snapshot /dev/sda1 /var/backup/elastio 4",
                "Takes a snapshot of /dev/sda1 that appears as /dev/elastio-snap4; the file \
                 /var/backup/elastio, on the same volume, keeps what is overwritten.",
            ),
            (
                "elioctl transition-to-incremental 4",
                "Once the snapshot has been copied: only track changes from here on.",
            ),
            (
                "elioctl transition-to-snapshot /var/backup/elastio1 4",
                "Takes the next snapshot. update-img then copies what changed between the two, \
                 which it reads from /var/backup/elastio.",
            ),
            ("elioctl reconfigure -c 400 4", "Allows 400 MiB of memory for cached data."),
            (
                "elioctl reload-incremental /dev/sda1 /backup/elastio1 4",
                "In early boot: goes on tracking /dev/sda1 once it is mounted, where the file is \
                 /backup/elastio1 as seen from its mount point.",
            ),
            ("elioctl destroy 4", "Stops tracking and removes the device and its file."),
        ],
    );
    page.control("SH", ["SEE ALSO"]).text([bold("update-img"), roman("(8)")]);
    page.render().into_bytes()
}
