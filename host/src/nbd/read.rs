//! Splits the reply to a read into content chunks.

use crate::block::Span;

/// Shorter holes are sent as zeroes: saving a chunk is worth more than saving a few bytes.
const MIN_HOLE: u64 = 4096;

/// Chunks begin and end at multiples of this where possible (spec: NBD_CMD_READ).
const ALIGNMENT: u64 = 512;

/// A part of what the disk returned for a read, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This many bytes of data.
    Data(u64),
    /// This many zeroes, which are not stored anywhere.
    Hole(u64),
}

/// A part of the reply to a read: one content chunk, or an entire simple reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The part of the disk that it covers.
    pub span: Span,
    /// Whether it is a hole, which is sent without data. A run of data may include pieces that are
    /// holes: they are sent as zeroes.
    pub hole: bool,
    /// Whether it is the last run of the reply.
    pub last: bool,
}

/// An iterator over the runs of a reply, in order. They are adjacent and cover the span of the
/// request.
#[derive(Clone, Debug)]
pub struct Runs<I> {
    pieces: I,
    rest: Span,
    /// The offset at which the pieces consumed so far end.
    seen: u64,
    /// A hole that follows the run returned last.
    pending: Option<Span>,
    /// If set, there is a single run, and this is whether it is a hole.
    whole: Option<bool>,
}

impl<I: Iterator<Item = Piece> + Clone> Runs<I> {
    /// Creates an iterator with a run for each long hole and for the data between them.
    pub(super) fn new(span: Span, pieces: I) -> Self {
        Self { pieces, rest: span, seen: span.offset, pending: None, whole: None }
    }

    /// Creates an iterator with a single run, which is a hole if all pieces are.
    pub(super) fn one(span: Span, pieces: I) -> Self {
        let hole = |piece| matches!(piece, Piece::Hole(_) | Piece::Data(0));
        let whole = Some(pieces.clone().all(hole));
        Self { whole, ..Self::new(span, pieces) }
    }

    /// Creates an iterator with a single run, which is sent as data.
    pub(super) fn one_of_data(span: Span, pieces: I) -> Self {
        Self { whole: Some(false), ..Self::new(span, pieces) }
    }
}

impl<I: Iterator<Item = Piece>> Iterator for Runs<I> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.rest.length == 0 {
            return None;
        }
        if let Some(hole) = self.whole {
            return Some(self.take(self.rest.end(), hole));
        }
        let Some(hole) = self.pending.take().or_else(|| self.next_hole()) else {
            return Some(self.take(self.rest.end(), false));
        };
        if hole.offset > self.rest.offset {
            self.pending = Some(hole);
            return Some(self.take(hole.offset, false));
        }
        Some(self.take(hole.end(), true))
    }
}

impl<I: Iterator<Item = Piece>> Runs<I> {
    fn take(&mut self, end: u64, hole: bool) -> Run {
        let span = Span { offset: self.rest.offset, length: end - self.rest.offset };
        self.rest = Span { offset: end, length: self.rest.end() - end };
        Run { span, hole, last: self.rest.length == 0 }
    }

    /// Returns the next hole that is worth a chunk, without its unaligned edges.
    fn next_hole(&mut self) -> Option<Span> {
        let (begin, end) = (self.rest.offset, self.rest.end());
        let mut hole = None;
        while self.seen < end {
            let (empty, length) = match self.pieces.next() {
                Some(Piece::Hole(length)) => (true, length),
                Some(Piece::Data(length)) => (false, length),
                None => (true, u64::MAX),
            };
            let at = self.seen;
            self.seen = at.saturating_add(length).min(end);
            if empty {
                hole.get_or_insert(at);
            } else if length > 0
                && let Some(start) = hole.take()
                && let Some(found) = worthwhile(begin, start, at, end)
            {
                return Some(found);
            }
        }
        worthwhile(begin, hole?, end, end)
    }
}

/// Returns the part of the hole from `start` to `stop` that is worth a chunk, if any. Edges at the
/// beginning or the end of the read were chosen by the client and need no alignment.
fn worthwhile(begin: u64, start: u64, stop: u64, end: u64) -> Option<Span> {
    let first = match start == begin {
        true => start,
        false => start.next_multiple_of(ALIGNMENT),
    };
    let after = match stop == end {
        true => stop,
        false => stop - stop % ALIGNMENT,
    };
    let whole = start == begin && stop == end;
    (first < after && (whole || after - first >= MIN_HOLE))
        .then(|| Span { offset: first, length: after - first })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::codes::{CommandCode, command_flag};
    use crate::nbd::tests::Random;
    use crate::nbd::{ReplyStyle, ReplyTo, Request};

    fn reply(style: ReplyStyle, flags: u16) -> ReplyTo {
        let command = CommandCode::READ;
        ReplyTo::new(style, &Request { flags, command, cookie: 0, offset: 0, length: 0 })
    }

    fn runs(offset: u64, pieces: &[Piece]) -> Vec<(u64, u64, bool)> {
        let length = pieces.iter().map(length).sum();
        reply(ReplyStyle::Structured, 0)
            .runs(Span { offset, length }, pieces.iter().copied())
            .map(|run| (run.span.offset, run.span.length, run.hole))
            .collect()
    }

    fn length(piece: &Piece) -> u64 {
        match *piece {
            Piece::Data(length) | Piece::Hole(length) => length,
        }
    }

    #[test]
    fn neighbours_become_one_chunk() {
        use Piece::{Data, Hole};
        assert_eq!(runs(0, &[Data(4096), Data(0), Data(4096)]), [(0, 8192, false)]);
        assert_eq!(runs(0, &[Hole(4096), Data(0), Hole(1)]), [(0, 4097, true)]);
        assert_eq!(
            runs(0, &[Hole(4096), Hole(4096), Data(1), Data(511), Hole(4096)]),
            [(0, 8192, true), (8192, 512, false), (8704, 4096, true)]
        );
    }

    #[test]
    fn short_holes_are_sent_as_zeroes() {
        use Piece::{Data, Hole};
        assert_eq!(runs(0, &[Data(4096), Hole(4095), Data(1)]), [(0, 8192, false)]);
        assert_eq!(runs(0, &[Hole(512), Data(512)]), [(0, 1024, false)]);
        assert_eq!(runs(7, &[Hole(1)]), [(7, 1, true)], "but not if there is nothing else");
    }

    #[test]
    fn inner_edges_are_aligned() {
        use Piece::{Data, Hole};
        assert_eq!(
            runs(3, &[Hole(5000), Data(100), Hole(9000), Data(1)]),
            [(3, 4605, true), (4608, 512, false), (5120, 8704, true), (13824, 280, false)]
        );
    }

    #[test]
    fn wrong_pieces_still_make_a_reply_in_order() {
        use Piece::{Data, Hole};
        let span = Span { offset: 4096, length: 8192 };
        let reply = reply(ReplyStyle::Extended, 0);
        let run = |offset, length, hole, last| Run { span: Span { offset, length }, hole, last };
        let short: Vec<_> = reply.runs(span, [Data(4096)]).collect();
        assert_eq!(short, [run(4096, 4096, false, false), run(8192, 4096, true, true)]);
        let long: Vec<_> = reply.runs(span, [Data(4096), Hole(u64::MAX), Data(u64::MAX)]).collect();
        assert_eq!(long, short);
        assert_eq!(reply.runs(span, []).collect::<Vec<_>>(), [run(4096, 8192, true, true)]);
    }

    #[test]
    fn random_reads_are_covered_by_runs_in_order() {
        let mut random = Random::new(3);
        for _ in 0..2_000 {
            let offset = random.below(3) * 4096 + random.below(2) * random.below(600);
            let unit = [1, 100, 512, 4096][random.below(4) as usize];
            let pieces: Vec<_> = (0..=random.below(12))
                .map(|_| match random.below(2) {
                    0 => Piece::Data(random.below(5) * unit),
                    _ => Piece::Hole(random.below(5) * unit),
                })
                .collect();
            let span = Span { offset, length: pieces.iter().map(length).sum() };
            let mut holes = Vec::new();
            for piece in &pieces {
                let hole = matches!(piece, Piece::Hole(_));
                holes.extend((0..length(piece)).map(|_| hole));
            }
            let (style, flags) = match random.below(3) {
                0 => (ReplyStyle::Simple, 0),
                1 => (ReplyStyle::Structured, command_flag::DF),
                _ => (ReplyStyle::Extended, 0),
            };
            let runs: Vec<_> = reply(style, flags).runs(span, pieces).collect();
            let mut at = span.offset;
            for (index, run) in runs.iter().enumerate() {
                assert_eq!(run.span.offset, at);
                assert!(run.span.length > 0);
                at = run.span.end();
                assert_eq!(run.last, index + 1 == runs.len());
                let (first, after) = (run.span.offset - offset, at - offset);
                let all = holes[first as usize..after as usize].iter().all(|hole| *hole);
                assert!(all || !run.hole, "a hole is one");
                assert!(run.last || at.is_multiple_of(ALIGNMENT));
                let next = runs.get(index + 1);
                assert!(next.is_none_or(|next| next.hole != run.hole), "neighbours differ");
            }
            assert_eq!(at, span.end());
            if style == ReplyStyle::Simple || flags != 0 {
                assert!(runs.len() <= 1);
                assert!(style != ReplyStyle::Simple || runs.iter().all(|run| !run.hole));
            }
        }
    }
}
