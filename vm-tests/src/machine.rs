// SPDX-License-Identifier: GPL-2.0-only
//! One boot of a virtual machine, through virtme-ng.
//!
//! Invariants: whatever happens inside, a boot ends at its limit; nothing that it made is left behind;
//! the machine's root is that of `ci/rootfs`, read-only to it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _};

use crate::matrix::{clone_root, last_line, Kernel};

/// Names a module to test instead of this source's, for whoever wants to see that a broken one is found.
pub const MODULE: &str = "ELIO_VM_MODULE";

/// What a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Memory (MiB).
    pub memory_mib: u32,
    /// Sizes of its disks (MiB): virtio-blk with discard and write-zeroes, empty, `/dev/vda` and on.
    pub disks_mib: &'static [u32],
    /// Of its memory, how much is persistent, with DAX (MiB); it begins at 1 GiB.
    pub persistent_mib: u32,
    /// How long it may run.
    pub limit: Duration,
}

/// What a boot left.
#[derive(Debug)]
pub struct Boot {
    /// The console, from the first line to the last.
    pub console: String,
    /// Whether the machine was ended because of its limit.
    pub out_of_time: bool,
    /// How long it took.
    pub took: Duration,
}

/// The programs that run inside, beside the guest's own.
fn build_tools() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(clone_root())
        .args(["build", "--quiet", "--locked", "--release", "--bins", "-p", "elioctl", "-p", "update-img"])
        .status()
        .context("cargo")?;
    ensure!(status.success(), "elioctl and update-img could not be built: {status}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| clone_root().join("target"), PathBuf::from);
    Ok(target.join("release"))
}

/// virtme-ng starts the `virtiofsd` that it finds first. Nothing of the root changes while a machine runs, so the
/// guest may keep what it has read: otherwise each program it starts is read again from its first byte.
const VIRTIOFSD: &str = "#!/bin/sh\nexec /usr/libexec/virtiofsd --cache always \"$@\"\n";

/// All that QEMU knows, without the string instructions that a kernel takes for fast: emulated, they move a byte
/// at a time.
const CPU: &str = "-cpu max,-erms,-fsrm,-fsrs,-fzrm,-fsrc";

/// Modules that no test needs, which udev would load at every boot for half of its time.
const UNUSED_MODULES: &str = "modprobe.blacklist=kvm_amd,ahci,iTCO_wdt,i6300esb,i2c_i801,lpc_ich,psmouse,serio_raw,\
    pcspkr,evdev,aesni_intel,ghash_clmulni_intel,sha512_ssse3,sha256_ssse3,sha1_ssse3,crct10dif_pclmul,crc32_pclmul";

/// For the shell that virtme-ng hands a command to.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Boots a machine in which `guest` runs with `arguments`, and waits for its end. Files and folders of
/// `more` lie beside it. The guest finds all of it in `/out`, the module as `/out/elastio-snap.ko`. What
/// the console shows is also written to the file `console`.
pub fn boot(
    kernel: &Kernel,
    machine: &Machine,
    guest: &Path,
    arguments: &[&str],
    more: &[PathBuf],
    console: &Path,
) -> anyhow::Result<Boot> {
    let module = match std::env::var(MODULE) {
        Ok(path) => path,
        Err(_) => last_line("kernel", &["build", &kernel.name, "--build", &kernel.build])?,
    };
    let root = last_line("rootfs", &["kernel"])?;
    let image = [format!("/boot/vmlinuz-{}", kernel.release), format!("/usr/lib/modules/{}/vmlinuz", kernel.release)]
        .into_iter()
        .find(|path| Path::new(&format!("{root}{path}")).exists())
        .with_context(|| format!("the root has no image of {}", kernel.release))?;
    let tools = build_tools()?;
    let work = tempfile::tempdir()?;
    fs::copy(&module, work.path().join("elastio-snap.ko")).context(module)?;
    let files = [guest.to_owned(), tools.join("elioctl"), tools.join("update-img")];
    for path in files.iter().chain(more) {
        let status = Command::new("cp").arg("-r").arg(path).arg(work.path()).status()?;
        ensure!(status.success(), "{} could not be copied", path.display());
    }
    let wrapper = work.path().join("virtiofsd");
    fs::write(&wrapper, VIRTIOFSD)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    let mut drives = String::new();
    for (number, mib) in machine.disks_mib.iter().enumerate() {
        fs::File::create(work.path().join(format!("disk{number}")))?.set_len(u64::from(*mib) << 20)?;
        drives += &format!(
            " -drive file=/out/disk{number},if=none,id=disk{number},format=raw,discard=unmap,cache=unsafe \
             -device virtio-blk-pci,drive=disk{number},discard=on,write-zeroes=on"
        );
    }
    let persistent = (machine.persistent_mib > 0).then(|| format!("memmap={}M!1G", machine.persistent_mib));
    let guest = guest.file_name().context("the guest's program has a name")?.to_string_lossy();
    let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
    let began = Instant::now();
    let mut child = Command::new(clone_root().join("ci/in-root"))
        .arg("--out")
        .arg(work.path())
        .args([&root, "/bin/sh", "-c", "PATH=/out:$PATH exec \"$@\"", "sh"])
        .args(["vng", "--disable-kvm", "--verbose", "--run"])
        .arg(image)
        .args(["--cpus", "2", "--memory", &format!("{}M", machine.memory_mib)])
        // The guest raises it; what the kernel says of the machine while it boots is many seconds of output.
        .args(["--append", "loglevel=4", "--append", "printk.devkmsg=on", "--append", UNUSED_MODULES])
        .args(persistent.iter().flat_map(|option| ["--append", option]))
        .arg(format!("--qemu-opts={CPU}{drives}"))
        .args(["--exec", &format!("/out/{guest} {}", words.join(" "))])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut output = child.stderr.take().context("stderr is a pipe")?;
    // To be looked at meanwhile, and afterwards.
    let mut copy = fs::File::create(console)?;
    let reader = std::thread::spawn(move || {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        // What came until an error is what there is.
        while let Ok(length @ 1..) = output.read(&mut piece) {
            bytes.extend_from_slice(&piece[..length]);
            let _ = copy.write_all(&piece[..length]);
        }
        bytes
    });
    let mut out_of_time = false;
    while child.try_wait()?.is_none() {
        if began.elapsed() > machine.limit && !out_of_time {
            // Its namespace ends with it, and so does everything inside.
            child.kill()?;
            out_of_time = true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let bytes = reader.join().map_err(|_| anyhow::anyhow!("the console could not be read"))?;
    Ok(Boot { console: String::from_utf8_lossy(&bytes).into_owned(), out_of_time, took: began.elapsed() })
}
