//! The execution of the parts of a route: copies and segments.

use futures_util::{StreamExt, stream};
use tokio::task::consume_budget;

use super::StackedDevice;
use super::below::Late;
use crate::block::{Command, Error, ErrorCode, Extents, Span, Status};
use crate::component::{Copy, Location, Place, Segment};
use crate::device::lower::{self, moved};
use crate::device::{Answer, Cancelled, Content, Order, Outcome, Part};

/// The length of the pieces in which data is copied, in bytes.
const PIECE: u64 = 128 << 10;

/// The number of segments of a request that are under way at a time.
const PARALLEL: usize = 16;

/// Returns segments with the parts of a span that they are for.
fn parts(segments: &[Segment], span: Span) -> impl Iterator<Item = (Segment, Span)> {
    let mut offset = span.offset;
    segments.iter().map(move |&segment| {
        let part = Span { offset, length: segment.length };
        offset += segment.length;
        (segment, part)
    })
}

impl StackedDevice {
    /// Returns true if each segment can be zeroed fast, so that none is zeroed in vain.
    pub(super) fn all_zero_fast(&self, segments: &[Segment]) -> bool {
        segments.iter().all(|segment| match segment.place {
            Place::Lower(Location { device, .. }) => {
                let offers = self.lowers().device(device).geometry().capabilities;
                offers.zero && offers.fast_zero
            }
            Place::Own => self.geometry.capabilities.fast_zero,
            Place::Hole => true,
        })
    }

    /// Executes the part of a routed command that a segment is for, within a time limit.
    pub(super) async fn execute_part(
        &self,
        segment: Segment,
        part: Span,
        order: &Order,
        late: &Late,
    ) -> Outcome {
        let outcome = self.execute_segment(segment, part, order, Some(late)).await;
        match order.command {
            // It may have ended early, and the component must not take it for complete.
            Command::Zero { .. } if order.cancelled.is_cancelled() => {
                outcome.and(Err(ErrorCode::Shutdown.into()))
            }
            _ => outcome,
        }
    }

    /// Executes the part of a command that a segment is for. Without `late` there is no time limit.
    pub(super) async fn execute_segment(
        &self,
        segment: Segment,
        part: Span,
        order: &Order,
        late: Option<&Late>,
    ) -> Outcome {
        let payload = match order.command {
            Command::Write { span, .. } => {
                let from = (part.offset - span.offset) as usize;
                order.payload.slice(from..from + part.length as usize)
            }
            _ => Default::default(),
        };
        let to = match segment.place {
            Place::Lower(location) => location.offset,
            Place::Own | Place::Hole => part.offset,
        };
        let command = moved(order.command, to, part.length);
        let cancelled = order.cancelled.clone();
        let part = Order { alone: order.alone, ..Order::new(command, payload, cancelled) };
        match segment.place {
            Place::Lower(Location { device, .. }) => match late {
                Some(late) => self.execute_below(device, part, late).await,
                None => lower::execute(self.lowers().device(device).clone(), part).await,
            },
            Place::Own => self.execute_own(part).await,
            Place::Hole => hole(command),
        }
    }

    /// Reads segments, several at a time.
    pub(super) async fn read_segments(
        &self,
        segments: &[Segment],
        order: &Order,
        late: &Late,
        results: &mut [Option<ErrorCode>],
    ) -> Outcome {
        let mut content = Vec::new();
        let failed = self
            .execute_all(segments, order, late, results, |answer| {
                if let Answer::Read(Content::Copied(parts)) = answer {
                    content.extend(parts);
                }
            })
            .await;
        failed.map_or(Ok(Answer::Read(Content::Copied(content))), Err)
    }

    /// Writes, zeroes or trims segments, or caches them, several at a time.
    pub(super) async fn change_segments(
        &self,
        segments: &[Segment],
        order: &Order,
        late: &Late,
        results: &mut [Option<ErrorCode>],
    ) -> Outcome {
        let failed = self.execute_all(segments, order, late, results, |_| ()).await;
        failed.map_or(Ok(Answer::Done), Err)
    }

    /// Executes all segments, and returns the error of the first that failed (rule 5).
    async fn execute_all(
        &self,
        segments: &[Segment],
        order: &Order,
        late: &Late,
        results: &mut [Option<ErrorCode>],
        mut take: impl FnMut(Answer),
    ) -> Option<Error> {
        let executed = parts(segments, order.command.span()).map(|(segment, part)| async move {
            consume_budget().await;
            // Copied at once: two leases of one device could wait for each other.
            self.execute_part(segment, part, order, late).await.map(Answer::into_copy)
        });
        let mut executed = stream::iter(executed).buffered(PARALLEL);
        let mut failed = None;
        for result in results {
            match executed.next().await {
                Some(Ok(answer)) => take(answer),
                Some(Err(error)) => {
                    *result = Some(error.code);
                    failed.get_or_insert(error);
                }
                None => break,
            }
        }
        failed
    }

    /// Zeroes segments fast. Once something has changed, the request cannot fail any more for not being
    /// fast.
    pub(super) async fn zero_segments_fast(
        &self,
        segments: &[Segment],
        order: &Order,
        late: &Late,
        results: &mut [Option<ErrorCode>],
    ) -> Outcome {
        let mut failed: Option<Error> = None;
        let mut changed = false;
        for (index, (segment, part)) in parts(segments, order.command.span()).enumerate() {
            let mut outcome = self.execute_part(segment, part, order, late).await;
            if let Err(error) = &outcome
                && error.code == ErrorCode::NotSup
            {
                if !changed {
                    results.fill(Some(ErrorCode::NotSup));
                    return outcome;
                }
                let slow = slow(order.command);
                let slow = Order::new(slow, Default::default(), order.cancelled.clone());
                outcome = self.execute_part(segment, part, &slow, late).await;
            }
            changed |= segment.place != Place::Hole;
            if let Err(error) = outcome {
                results[index] = Some(error.code);
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(Answer::Done), Err)
    }

    /// Reports the extents of segments, from the first on (rule 8).
    pub(super) async fn extents_of_segments(
        &self,
        segments: &[Segment],
        order: &Order,
        late: &Late,
    ) -> Outcome {
        let Command::Extents { span, limit } = order.command else {
            return Err(ErrorCode::Inval.into());
        };
        let mut extents = Extents::new(span.length, limit);
        for (segment, part) in parts(segments, span) {
            let answer = match self.execute_part(segment, part, order, late).await {
                Ok(answer) => answer,
                // What is known so far is an answer, too.
                Err(_) if extents.covered() > 0 => break,
                Err(error) => return Err(error),
            };
            let Answer::Extents(list) = answer else { break };
            let more = list.as_slice().iter().all(|one| extents.push(one.length, one.status));
            if !more || list.covered() < part.length {
                break;
            }
        }
        Ok(Answer::Extents(extents))
    }

    /// Copies data between lower devices. Holes stay holes where the target can have them.
    pub(super) async fn copy(&self, copy: &Copy, fua: bool, late: &Late) -> Result<(), Error> {
        // Not given up with the client: the component takes it for complete.
        let order = |command, payload| Order::new(command, payload, Cancelled::default());
        let mut at = 0;
        while at < copy.length {
            let length = PIECE.min(copy.length - at);
            let _copying = self.turn_to_copy().await?;
            consume_budget().await;
            let span = Span { offset: copy.from.offset + at, length };
            let read = order(Command::Read { span }, Default::default());
            let content = match self.execute_below(copy.from.device, read, late).await? {
                Answer::Read(content) => content.into_parts(),
                _ => return Err(ErrorCode::Io.into()),
            };
            let mut offset = copy.to.offset + at;
            for part in content {
                let write = |bytes: bytes::Bytes| {
                    let span = Span { offset, length: bytes.len() as u64 };
                    (Command::Write { span, fua }, bytes, span.length)
                };
                let (command, payload, length) = match part {
                    Part::Data(bytes) => write(bytes.into()),
                    Part::Shared(bytes) => write(bytes),
                    Part::Hole(length) => {
                        let span = Span { offset, length: length.into() };
                        let (keep_allocated, fast) = (false, false);
                        let zero = Command::Zero { span, fua, keep_allocated, fast };
                        (zero, Default::default(), span.length)
                    }
                };
                self.execute_below(copy.to.device, order(command, payload), late).await?;
                offset += length;
            }
            at += length;
        }
        Ok(())
    }
}

/// The command without the wish that it be fast.
fn slow(command: Command) -> Command {
    match command {
        Command::Zero { span, fua, keep_allocated, .. } => {
            Command::Zero { span, fua, keep_allocated, fast: false }
        }
        command => command,
    }
}

/// Executes a command on bytes that are nowhere.
fn hole(command: Command) -> Outcome {
    match command {
        Command::Read { span } => {
            let length = u32::try_from(span.length).map_err(|_| ErrorCode::Overflow)?;
            Ok(Answer::Read(Content::Copied(vec![Part::Hole(length)])))
        }
        Command::Extents { span, limit } => {
            let mut extents = Extents::new(span.length, limit);
            extents.push(span.length, Status::HOLE);
            Ok(Answer::Extents(extents))
        }
        Command::Zero { keep_allocated: false, .. }
        | Command::Trim { .. }
        | Command::Cache { .. } => Ok(Answer::Done),
        // A stable route may be for zeroes without this flag.
        Command::Zero { .. } => Err(ErrorCode::NoSpc.into()),
        Command::Write { .. } | Command::Flush => Err(ErrorCode::Inval.into()),
    }
}
