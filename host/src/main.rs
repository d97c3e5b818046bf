//! The command `memnbd-host`.

use std::process::ExitCode;

fn main() -> ExitCode {
    memnbd_host::cli::main()
}
