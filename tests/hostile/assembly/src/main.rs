//! Writes a hostile component to a file: `memnbd-assemble OUTPUT [OVERLAY]...`, where an overlay is
//! a name in `components`, or a path that has a slash.

use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memnbd-assemble: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut arguments = env::args().skip(1);
    let output = arguments.next().ok_or("OUTPUT is missing")?;
    let overlays: Vec<String> = arguments.map(|name| overlay(&name)).collect::<Result<_, _>>()?;
    let wasm = memnbd_hostile::assemble(&overlays)?;
    fs::write(&output, wasm).map_err(|error| format!("{output}: {error}"))
}

fn overlay(name: &str) -> Result<String, String> {
    if name.contains('/') {
        return fs::read_to_string(name).map_err(|error| format!("{name}: {error}"));
    }
    memnbd_hostile::overlay(name)
}
