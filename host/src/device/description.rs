//! QEMU's metadata contexts: what was changed since a snapshot, and how deep in a chain data is.
//!
//! Nothing is recorded for them. A device that stands on others tells where its bytes are
//! ([`Order::locate`]), and the device that has them tells how old they are.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::consume_budget;

use super::snapshot::Mark;
use super::{Answer, Cancelled, Described, Device, Located, LowerLayer, Order, Outcome, lower};
use crate::block::{Command, Error, ErrorCode, Extent, Extents, Span};
use crate::component::Place::{Hole, Lower as On, Own};
use crate::component::{Location, Segment};

/// The most parts of which a description is put together, in all contexts. Beyond that it ends early.
const MAX_PARTS: usize = 1 << 16;

/// The most segments of a route.
const LONGEST_ROUTE: usize = 4096;

/// The status of bytes that are allocated nowhere, or that are not dirty.
const NOTHING: u32 = 0;

/// The status of bytes that are dirty.
const DIRTY: u32 = 1;

/// A metadata context.
pub enum MetaContext {
    /// `base:allocation`.
    Allocation,
    /// `qemu:allocation-depth`: 0 where nothing is allocated, 1 in the uppermost layer of the chain, and so
    /// on.
    AllocationDepth,
    /// `qemu:dirty-bitmap:NAME`: 1 where something may have been changed since the snapshot, 0 elsewhere.
    DirtyBitmap(Mark),
    /// A bitmap whose snapshot was deleted while the client negotiated.
    Gone,
}

/// A part of a span that is to be described.
enum Part {
    /// This many bytes have this status.
    Known(u64, u32),
    /// It is on a device.
    On(Place),
}

/// A part of a span that is on a device.
struct Place {
    device: Arc<dyn Device>,
    /// On that device.
    span: Span,
    /// How many layers there are above the device.
    above: u32,
}

/// Returns how much memory a description takes at most, in bytes: its extents, and the routes of the devices
/// that stand on each other, as far as those are not charged to their disks.
pub(super) fn memory_of(device: &Arc<dyn Device>, contexts: usize, limit: usize) -> u64 {
    let extents = contexts * limit * size_of::<Extent<u32>>();
    let routes = device.depth() * LONGEST_ROUTE * (size_of::<Part>() + size_of::<Segment>());
    (extents + routes) as u64
}

/// Describes a span of a device in metadata contexts, which have these ids. The answer is
/// [`Answer::Described`], with at most `limit` extents for each. They may end before the span does.
///
/// # Errors
///
/// Returns the errors of the devices. The code is `EINVAL` if the device does not descend from the snapshot
/// of a bitmap.
pub async fn describe(
    device: &Arc<dyn Device>,
    contexts: &[(u32, Arc<MetaContext>)],
    span: Span,
    limit: usize,
    cancelled: &Cancelled,
) -> Outcome {
    let mut all = Vec::with_capacity(contexts.len());
    let parts = MAX_PARTS / contexts.len().max(1);
    for (id, context) in contexts {
        if cancelled.is_cancelled() {
            return Err(ErrorCode::Shutdown.into());
        }
        let asked = Asked { span, limit, parts, cancelled };
        let described = match &**context {
            MetaContext::Allocation => {
                let Answer::Extents(extents) = asked.execute(device, span, false).await? else {
                    return Err(ErrorCode::Io.into());
                };
                Described::Allocation(extents)
            }
            MetaContext::AllocationDepth => Described::State(asked.depth(device).await?),
            MetaContext::DirtyBitmap(mark) => Described::State(asked.dirty(device, mark).await?),
            MetaContext::Gone => return Err(refused("the snapshot of this bitmap was deleted")),
        };
        all.push((*id, described));
    }
    Ok(Answer::Described(all))
}

/// Finds what may have changed in a span since a snapshot, as [`MetaContext::DirtyBitmap`] tells it.
///
/// # Errors
///
/// Returns an error under the same conditions as [`describe`].
pub(super) async fn dirty(
    device: &Arc<dyn Device>,
    mark: &Mark,
    span: Span,
    limit: usize,
) -> Result<Extents<u32>, Error> {
    let asked = Asked { span, limit, parts: MAX_PARTS, cancelled: &Cancelled::default() };
    asked.dirty(device, mark).await
}

/// What is to be described.
struct Asked<'a> {
    span: Span,
    /// The most extents.
    limit: usize,
    /// The number of parts after which the description ends early, if anything is described.
    parts: usize,
    cancelled: &'a Cancelled,
}

impl Asked<'_> {
    async fn execute(&self, device: &Arc<dyn Device>, span: Span, locate: bool) -> Outcome {
        let command = Command::Extents { span, limit: self.limit };
        let order = Order::new(command, Bytes::new(), self.cancelled.clone());
        lower::execute(device.clone(), Order { locate, ..order }).await
    }

    async fn dirty(&self, device: &Arc<dyn Device>, mark: &Mark) -> Result<Extents<u32>, Error> {
        let mut walk = Walk::new(self, device);
        while let Some(part) = walk.next().await {
            if mark.contains(&part.device) {
                walk.push(part.span.length, NOTHING);
                continue;
            }
            // Most overlays are disks in memory, which need not be asked.
            let answer = match part.device.depth() {
                1 => None,
                _ => Some(self.execute(&part.device, part.span, true).await?),
            };
            let Some(Answer::Located(located)) = answer else {
                walk.push(part.span.length, DIRTY);
                continue;
            };
            let has = |wanted: &dyn Fn(&Arc<dyn Device>) -> bool| {
                located.lowers.iter().any(|lower| wanted(&lower.device))
            };
            if has(&|lower| mark.contains(lower)) && !has(&|lower| mark.is_last(lower)) {
                return Err(refused("the disk does not descend from the snapshot of this bitmap"));
            }
            // The component may have changed anything of its own.
            walk.descend(&part, &located, |_, lower| lower.is_none().then_some(DIRTY));
        }
        Ok(walk.extents)
    }

    async fn depth(&self, device: &Arc<dyn Device>) -> Result<Extents<u32>, Error> {
        let mut walk = Walk::new(self, device);
        while let Some(part) = walk.next().await {
            match self.execute(&part.device, part.span, true).await? {
                Answer::Located(located) => {
                    walk.descend(&part, &located, |segment, lower| match lower {
                        Some(lower) => lower.hides.then_some(part.above + lower.level),
                        None if segment.place == Hole => Some(NOTHING),
                        None => Some(part.above + 1),
                    });
                }
                Answer::Extents(extents) => {
                    for extent in extents.as_slice() {
                        let state = if extent.status.hole { NOTHING } else { part.above + 1 };
                        walk.push(extent.length, state);
                    }
                    if extents.covered() < part.span.length {
                        walk.end();
                    }
                }
                _ => return Err(ErrorCode::Io.into()),
            }
        }
        Ok(walk.extents)
    }
}

/// The way through the parts of a span, from its beginning.
struct Walk {
    extents: Extents<u32>,
    /// What is not described yet, the last part first.
    rest: Vec<Part>,
    /// How many parts may follow.
    parts: usize,
    cancelled: Cancelled,
}

impl Walk {
    fn new(asked: &Asked<'_>, device: &Arc<dyn Device>) -> Self {
        let all = Place { device: device.clone(), span: asked.span, above: 0 };
        let extents = Extents::new(asked.span.length, asked.limit);
        let (parts, cancelled) = (asked.parts, asked.cancelled.clone());
        Self { extents, rest: vec![Part::On(all)], parts, cancelled }
    }

    /// Returns the next part that is on a device, or `None` if enough is described.
    async fn next(&mut self) -> Option<Place> {
        loop {
            consume_budget().await;
            let is_over = self.parts == 0 || self.cancelled.is_cancelled();
            if self.extents.is_full() || is_over && self.extents.covered() > 0 {
                return None;
            }
            self.parts = self.parts.saturating_sub(1);
            match self.rest.pop()? {
                Part::Known(length, state) => self.push(length, state),
                Part::On(place) => return Some(place),
            }
        }
    }

    /// Appends the status of the next bytes.
    fn push(&mut self, length: u64, state: u32) {
        self.extents.push(length, state);
    }

    /// Ends with what is described already: nothing can follow what is not known.
    fn end(&mut self) {
        self.rest.clear();
    }

    /// Goes on with the segments of a part. `state` returns the status of those whose devices need not be
    /// asked, by the segment and its device.
    fn descend(
        &mut self,
        part: &Place,
        located: &Located,
        state: impl Fn(&Segment, Option<&LowerLayer>) -> Option<u32>,
    ) {
        let lengths = located.segments.iter().map(|segment| segment.length);
        if lengths.sum::<u64>() < part.span.length {
            self.end();
        }
        for segment in located.segments.iter().rev() {
            let length = segment.length;
            let (lower, offset) = match segment.place {
                On(Location { device, offset }) => (located.lowers.get(device), offset),
                Own | Hole => (None, 0),
            };
            self.rest.push(match (state(segment, lower), lower) {
                (Some(state), _) => Part::Known(length, state),
                (None, Some(lower)) => Part::On(Place {
                    device: lower.device.clone(),
                    span: Span { offset, length },
                    above: part.above + lower.level - 1,
                }),
                (None, None) => Part::Known(length, DIRTY),
            });
        }
    }
}

fn refused(message: &str) -> Error {
    Error { code: ErrorCode::Inval, message: Some(message.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::snapshot::tests::fragmented;

    #[tokio::test]
    async fn description_of_many_parts_is_told_in_several() {
        let (layer, snapshot, expected) = fragmented().await;
        let device = layer.device();
        let size = device.geometry().size;
        let mark = snapshot.mark();
        for parts in [0, 1, 2, 7, MAX_PARTS] {
            let mut told = Vec::new();
            let (mut offset, mut requests) = (0, 0);
            while offset < size {
                let span = Span { offset, length: size - offset };
                let cancelled = Cancelled::default();
                let asked = Asked { span, limit: 1000, parts, cancelled: &cancelled };
                let extents = asked.dirty(device, &mark).await.unwrap();
                assert!(extents.covered() > 0, "there is always an answer");
                offset += extents.covered();
                requests += 1;
                for extent in extents.as_slice() {
                    match told.last_mut() {
                        Some((length, state)) if *state == extent.status => {
                            *length += extent.length;
                        }
                        _ => told.push((extent.length, extent.status)),
                    }
                }
            }
            assert_eq!(told, expected, "{parts}");
            assert_eq!(requests > 1, parts < MAX_PARTS, "{requests} with {parts}");
        }
    }
}
