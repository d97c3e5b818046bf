//! The targets of the fuzzers, run on their corpus and on the same few mutations of it each time.
//!
//! `Cargo.toml` here says how to fuzz for longer.

use std::fs;
use std::path::Path;

mod targets;

/// The files of a target's corpus, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Runs a target on its corpus and on `mutations` of it.
fn run(target: &str, mutations: u32, run: impl Fn(&[u8])) {
    let corpus = corpus(target);
    corpus.iter().for_each(|input| run(input));
    let mut random = Random(fastrand::Rng::with_seed(1));
    for _ in 0..mutations {
        run(&random.mutate(&corpus));
    }
}

/// Pseudo-random changes, the same each time.
struct Random(fastrand::Rng);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0.usize(..limit.max(1))
    }

    /// A member of the corpus with some bytes changed, left out, put in, or taken from another.
    fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(5) {
            let at = self.below(input.len());
            match self.below(7) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 if at < input.len() => input[at] = self.0.u8(..),
                2 => {
                    let extreme = [0, 0xff, 0x7f, 0x80, 1][self.below(5)];
                    let width = 1 << self.below(4);
                    input[at..].iter_mut().take(width).for_each(|byte| *byte = extreme);
                }
                3 => drop(input.drain(at..(at + 1 + self.below(40)).min(input.len()))),
                4 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len());
                    let to = (from + 1 + self.below(60)).min(other.len());
                    input.splice(at..at, other[from..to].iter().copied());
                }
                5 => input.truncate(at),
                _ => {
                    let again = input[at..(at + 28).min(input.len())].to_vec();
                    input.splice(at..at, again);
                }
            }
        }
        input
    }
}

#[test]
fn handshakes_of_the_corpus_and_near_it() {
    run("handshake", 30_000, targets::handshake);
}

#[test]
fn requests_of_the_corpus_and_near_it() {
    run("transmission", 10_000, targets::transmission);
}

#[test]
fn connections_of_the_corpus_and_near_it() {
    run("connection", 1_000, targets::connection);
}

#[test]
fn servers_of_the_corpus_and_near_them() {
    run("client", 5_000, targets::client);
}

#[test]
fn chunks_of_the_corpus_and_near_it() {
    run("chunks", 2_000, targets::chunks);
}

#[test]
fn extents_of_the_corpus_and_near_it() {
    run("extents", 5_000, targets::extents);
}

#[test]
fn disks_of_the_corpus_and_near_it() {
    run("disk", 5_000, targets::disk);
}

#[test]
fn routes_of_the_corpus_and_near_it() {
    run("routes", 2_000, targets::routes);
}

#[test]
fn descriptions_of_the_corpus_and_near_it() {
    run("description", 5_000, targets::description);
}

#[test]
fn qcow2_images_of_the_corpus_and_near_it() {
    run("qcow2", 3_000, targets::qcow2);
}

#[test]
fn tar_archives_of_the_corpus_and_near_it() {
    run("tar", 5_000, targets::tar);
}

#[test]
fn gzip_files_of_the_corpus_and_near_it() {
    run("gzip", 3_000, targets::gzip);
}

#[test]
fn xz_files_of_the_corpus_and_near_it() {
    run("xz", 3_000, targets::xz);
}

#[test]
fn zstd_files_of_the_corpus_and_near_it() {
    run("zstd", 3_000, targets::zstd);
}

#[test]
fn vhd_images_of_the_corpus_and_near_it() {
    run("vhd", 3_000, targets::vhd);
}

#[test]
fn vmdk_images_of_the_corpus_and_near_it() {
    run("vmdk", 3_000, targets::vmdk);
}
