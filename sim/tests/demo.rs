// SPDX-License-Identifier: GPL-2.0-only
//! The demo as a person or a program runs it: what it says is true, what is wrong is noticed, and
//! nothing is left behind, however it ends.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

const SIZE_MIB: u64 = 32;

/// The demo, small, in a folder of its own.
fn demo(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elio-sim"));
    command.arg("demo").arg("--dir").arg(dir).args(["--size", &SIZE_MIB.to_string()]).args(arguments);
    command
}

fn run(dir: &TempDir, arguments: &[&str]) -> Output {
    demo(dir.path(), arguments).output().unwrap()
}

/// The one object on stdout.
fn object(output: &Output) -> Value {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(text).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_empty(dir: &Path) {
    let left: Vec<_> = dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn the_object_tells_of_a_cycle_that_was_verified() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&dir, &["--json", "--rounds", "2"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert_empty(dir.path());
    let object = object(&output);
    let number = |value: &Value| value.as_u64().unwrap();

    assert_eq!(object["verified"], true);
    assert_eq!(object["failures"], serde_json::json!([]));
    assert_eq!(object["error"], Value::Null);
    assert_eq!(object["kept"], Value::Null);
    assert_eq!(number(&object["device_bytes"]), SIZE_MIB << 20);
    assert_eq!(number(&object["full_copy_bytes"]), SIZE_MIB << 20);
    assert_eq!(object["rounds"], 2);
    let sha256 = object["snapshot_sha256"].as_str().unwrap();
    assert!(sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit()), "{sha256}");
    assert_eq!(object["snapshot_sha256"], object["image_sha256"]);

    let rounds = object["round_details"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    assert_eq!(rounds[1]["snapshot_sha256"], object["snapshot_sha256"]);
    let total = |key: &str| rounds.iter().map(|round| number(&round[key])).sum::<u64>();
    assert_eq!(total("changed_blocks"), number(&object["changed_blocks"]));
    assert_eq!(total("copied_bytes"), number(&object["incremental_bytes"]));
    for round in rounds {
        assert_eq!(round["changed_blocks"], round["written_blocks"], "the list is exact: {round}");
        assert_eq!(number(&round["changed_blocks"]) * 4096, number(&round["copied_bytes"]));
        assert!(number(&round["copied_bytes"]) < SIZE_MIB << 20);
    }
    for (at, round) in std::iter::once(&object["full_copy"]).chain(rounds).enumerate() {
        assert_eq!(number(&round["snapshot"]), at as u64 + 1);
        assert_eq!(round["snapshot_sha256"], round["expected_sha256"]);
        assert_eq!(round["snapshot_sha256"], round["image_sha256"]);
        assert_eq!(round["volume_right"], true);
        assert_eq!(round["e2fsck_clean"], true);
        assert_eq!(round["different_blocks"], 0);
        assert_eq!(round["files"], round["files_equal"]);
        assert!(number(&round["files"]) > 200);
        assert!(number(&round["overwritten_while_copying"]) > 0, "no race: {round}");
        assert!(number(&round["copies_kept"]) >= number(&round["overwritten_while_copying"]));
    }
}

#[test]
fn a_person_is_told_what_to_type_and_the_same_seed_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let story = |seed: &str| {
        let output = run(&dir, &["--rounds", "1", "--seed", seed]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let told = story("5");
    for typed in [
        "$ elio-sim serve --device data=volume.img --cow-dir data=files --socket control --nbd unix:disks",
        "$ elioctl setup-snapshot /dev/data files/elastio-1 0",
        "$ elioctl transition-to-incremental 0",
        "$ elioctl transition-to-snapshot files/elastio-2 0",
        "$ update-img 'nbd+unix:///elastio-snap0?socket=disks' files/elastio-1 backup.img",
        "$ elioctl destroy 0",
        "e2fsck -fn clean",
        "Verified",
    ] {
        assert!(told.contains(typed), "{typed} is not in:\n{told}");
    }
    let longest = told.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(105), "{longest:?}:\n{told}");
    let sums = |told: &str| told.lines().filter(|line| line.contains("sha256 of")).collect::<Vec<_>>().join("\n");
    assert_eq!(sums(&told), sums(&story("5")));
    assert!(!sums(&told).is_empty());
    assert_empty(dir.path());
}

#[test]
fn whatever_is_broken_is_noticed() {
    for (what, failure) in [
        ("image", "the backup differs from the snapshot in 1 block(s): 4096"),
        ("list", "the backup differs from the snapshot in 1 block(s)"),
        ("volume", "the snapshot is not what the volume was when it was taken"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let output = run(&dir, &["--json", "--rounds", "1", "--sabotage", what]);
        assert_eq!(output.status.code(), Some(1), "{what}");
        let object = object(&output);
        assert_eq!(object["verified"], false, "{what}");
        let failures: Vec<_> = object["failures"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(failures.iter().any(|found| found.contains(failure)), "{what}: {failures:?}");
        assert!(text(&output.stderr).contains(failure), "{what}: {}", text(&output.stderr));
        assert_eq!(object["full_copy"]["different_blocks"], 0, "{what}: broken too early");
        assert_empty(dir.path());
    }
}

/// Reads what the demo tells until a line has `wanted` in it.
fn read_until(child: &mut Child, wanted: &str) -> BufReader<std::process::ChildStdout> {
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(wanted) {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "it ended before it told of {wanted}");
    }
    reader
}

#[test]
fn an_interruption_leaves_nothing_behind() {
    for (moment, signal) in [
        ("1  A volume", Signal::INT),
        ("$ elioctl setup-snapshot", Signal::INT),
        ("sha256 of the backup", Signal::TERM),
        ("$ elioctl transition-to-snapshot", Signal::HUP),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = demo(dir.path(), &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let reader = read_until(&mut child, moment);
        assert_eq!(dir.path().read_dir().unwrap().count(), 1, "there is something to remove");
        let began = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        // Nobody reads on, which must not disturb it either.
        drop(reader);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{moment}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("interrupted"), "{moment}: {}", text(&output.stderr));
        assert!(began.elapsed() < Duration::from_secs(20), "{moment}: {:?}", began.elapsed());
        assert_empty(dir.path());
    }
}

#[test]
fn what_is_kept_can_be_served_again() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&dir, &["--json", "--rounds", "1", "--keep"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let object = object(&output);
    let kept = Path::new(object["kept"].as_str().unwrap());
    assert_eq!(kept.parent(), Some(dir.path().canonicalize().unwrap().as_path()));
    let mut serve = Command::new(env!("CARGO_BIN_EXE_elio-sim"))
        .args(["serve", "--device", "data=volume.img", "--cow-dir", "data=files"])
        .args(["--socket", "control", "--nbd", "unix:disks"])
        .current_dir(kept)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(read_until(&mut serve, "commands on"));
    let info = elioctl::Driver::open(&kept.join("control")).unwrap().info(0).unwrap();
    kill_process(Pid::from_child(&serve), Signal::TERM).unwrap();
    assert!(serve.wait().unwrap().success());
    assert_eq!(info.error, None);
    assert_eq!(info.verified.unwrap().sequence, 2);
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let output = demo(&missing, &["--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("missing"), "{}", text(&output.stderr));
    let object = object(&output);
    assert_eq!(object["verified"], false);
    assert!(object["error"].as_str().unwrap().contains("missing"));

    let long = dir.path().join("x".repeat(100));
    std::fs::create_dir(&long).unwrap();
    let output = demo(&long, &[]).output().unwrap();
    assert!(text(&output.stderr).contains("name a shorter --dir"), "{}", text(&output.stderr));
    assert_empty(&long);
}

#[test]
fn wrong_usage_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [["--size", "1"], ["--rounds", "0"], ["--seed", "x"], ["--sabotage", "nothing"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_elio-sim"))
            .arg("demo")
            .arg("--dir")
            .arg(dir.path())
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    assert_empty(dir.path());
}
