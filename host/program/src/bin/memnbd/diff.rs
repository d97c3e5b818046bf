//! `memnbd diff`: what may differ between a snapshot and another one, or a disk.

use std::io::{self, BufWriter, Write};

use anyhow::Context as _;
use serde::Deserialize;

use super::http::{Refused, Server};
use super::{SNAPSHOTS, path, path_in};

/// An answer of the API.
#[derive(Deserialize)]
struct Diff {
    size: u64,
    granularity: u64,
    extents: Vec<Extent>,
    next: Option<u64>,
}

#[derive(Deserialize)]
struct Extent {
    offset: u64,
    length: u64,
}

/// Prints the extents that may differ, as they come, and then their sum.
pub(crate) async fn diff(
    server: &Server,
    from: &str,
    other: &str,
    is_disk: bool,
    json: bool,
) -> anyhow::Result<()> {
    let is_snapshot = match is_disk {
        true => false,
        false => exists(server, &path_in(SNAPSHOTS, other)).await?,
    };
    if !is_disk && !is_snapshot && !exists(server, &path(other, "")).await? {
        anyhow::bail!("there is no snapshot and no disk {other:?}");
    }
    let of = match is_snapshot {
        true => path_in(SNAPSHOTS, other) + "/diff",
        false => path(other, "/diff"),
    };
    let from = path_in("", from);
    let from = from.trim_start_matches('/');
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut start, mut count, mut total) = (0, 0_u64, 0);
    loop {
        let answer = server.get(&format!("{of}?from={from}&start={start}")).await?;
        let Diff { size, granularity, extents, next } =
            serde_json::from_value(answer).context("the answer is not that of memnbd-host")?;
        let written = (|| {
            if json && start == 0 {
                write!(out, "{{\"size\":{size},\"granularity\":{granularity},\"extents\":[")?;
            }
            for Extent { offset, length } in extents {
                let comma = if count == 0 { "" } else { "," };
                match json {
                    true => {
                        write!(out, "{comma}\n{{\"offset\":{offset},\"length\":{length}}}")?;
                    }
                    false => writeln!(out, "{offset} {length}")?,
                }
                count += 1;
                total += length;
            }
            match (next, json) {
                (Some(_), _) => Ok(()),
                (None, true) => writeln!(out, "],\"total\":{total}}}"),
                (None, false) => {
                    writeln!(out, "total {total} of {size}, in blocks of {granularity}")
                }
            }
        })();
        match (written.and_then(|()| out.flush()), next) {
            (Ok(()), None) => return Ok(()),
            // Nobody reads on.
            (Err(error), _) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            (Err(error), _) => return Err(error).context("write to stdout"),
            (Ok(()), Some(next)) if next > start => start = next,
            (Ok(()), Some(_)) => anyhow::bail!("the server does not get on with its answers"),
        }
    }
}

/// Returns true if there is something at a path.
async fn exists(server: &Server, path: &str) -> anyhow::Result<bool> {
    match server.get(path).await {
        Ok(_) => Ok(true),
        Err(error) if error.downcast_ref::<Refused>().is_some_and(|one| one.status == 404) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
