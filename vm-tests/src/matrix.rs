// SPDX-License-Identifier: GPL-2.0-only
//! The kernels to test: the rows of `ci/kernel list`, each build of a row for itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, ensure, Context as _};

/// Names the kernels to run, separated by spaces or commas: `6.12`, `7.3:rfl`. All of them without it.
pub const SELECTION: &str = "ELIO_VM_KERNELS";

/// A kernel with one build of the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its name in the matrix.
    pub name: String,
    /// What `uname -r` says.
    pub release: String,
    /// How the module is built for it.
    pub build: String,
}

impl Kernel {
    /// As in the names of tests.
    pub fn title(&self) -> String {
        format!("{}-{}", self.name, self.build)
    }
}

/// The top of the source.
pub fn clone_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

/// The last line that a script of `ci/` prints; what it says meanwhile goes to our stderr.
pub fn last_line(script: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = script_output(script, arguments)?;
    output.lines().last().map(str::to_owned).with_context(|| format!("ci/{script} printed nothing"))
}

fn script_output(script: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let path = clone_root().join("ci").join(script);
    let output = Command::new(&path)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| path.display().to_string())?;
    ensure!(output.status.success(), "ci/{script} {} failed: {}", arguments.join(" "), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn parse(list: &str) -> anyhow::Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    for line in list.lines() {
        let [name, release, builds, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!("no row of the matrix: {line}");
        };
        kernels.extend(builds.split(',').map(|build| Kernel {
            name: name.to_owned(),
            release: release.to_owned(),
            build: build.to_owned(),
        }));
    }
    Ok(kernels)
}

fn select(kernels: Vec<Kernel>, selection: &str) -> anyhow::Result<Vec<Kernel>> {
    let wanted: Vec<&str> = selection.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    if wanted.is_empty() {
        return Ok(kernels);
    }
    let is = |kernel: &Kernel, word: &str| match word.split_once(':') {
        Some((name, build)) => kernel.name == name && kernel.build == build,
        None => kernel.name == word,
    };
    if let Some(unknown) = wanted.iter().find(|word| !kernels.iter().any(|kernel| is(kernel, word))) {
        bail!("{SELECTION} names {unknown}, which ci/kernel list does not");
    }
    Ok(kernels.into_iter().filter(|kernel| wanted.iter().any(|word| is(kernel, word))).collect())
}

/// The kernels that are to be tested.
pub fn kernels() -> anyhow::Result<Vec<Kernel>> {
    let list = script_output("kernel", &["list"])?;
    select(parse(&list)?, &std::env::var(SELECTION).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "6.12 6.12.107+deb13-amd64 portable 1.85.0\n7.3 7.3.4+deb13-amd64 portable,rfl 1.85.0\n";

    fn titles(selection: &str) -> Vec<String> {
        select(parse(LIST).unwrap(), selection).unwrap().iter().map(Kernel::title).collect()
    }

    #[test]
    fn every_build_of_a_row_is_a_kernel() {
        assert_eq!(titles(""), ["6.12-portable", "7.3-portable", "7.3-rfl"]);
        assert_eq!(titles("7.3"), ["7.3-portable", "7.3-rfl"]);
        assert_eq!(titles("7.3:rfl, 6.12"), ["6.12-portable", "7.3-rfl"]);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(select(parse(LIST).unwrap(), "5.10").is_err());
        assert!(parse("6.12\n").is_err());
    }
}
