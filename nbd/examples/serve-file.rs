// SPDX-License-Identifier: GPL-2.0-only
//! Serves one file until standard input ends: `serve-file unix:PATH|tcp:HOST:PORT FILE [--read-only]`.
//! For benchmarks and for trying things out.

use std::{env, error::Error, io, sync::Arc};

use nbd::{Address, Exports, FileExport, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (address, file, read_only) = match args.as_slice() {
        [address, file] => (address, file, false),
        [address, file, option] if option == "--read-only" => (address, file, true),
        _ => return Err("usage: serve-file unix:PATH|tcp:HOST:PORT FILE [--read-only]".into()),
    };
    let export = Arc::new(FileExport::open(file, read_only)?);
    let server = Server::bind(&address.parse::<Address>()?)?;
    let handle = server.serve(Arc::new(Exports::new().with("", export)))?;
    println!("{}", handle.uri(""));
    io::copy(&mut io::stdin(), &mut io::sink())?;
    handle.shutdown();
    Ok(())
}
