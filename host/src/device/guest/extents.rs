//! Extents of a device, merged from those of its shards.

use tokio::task::consume_budget;

use super::GuestDevice;
use crate::block::{Error, Extent, Extents, Span, Status};

/// The number of steps for one answer, times the number of shards. An answer may end early.
const MAX_WORK: usize = 1 << 20;

impl GuestDevice {
    /// Returns the extents of a span. Of minimum blocks that lie partly within it, that part
    /// counts.
    pub(super) async fn extents(&self, span: Span, limit: usize) -> Result<Extents, Error> {
        let mut extents = Extents::new(span.length, limit);
        if !self.component.extents {
            extents.push(span.length, Status::DATA);
            return Ok(extents);
        }
        let wide = self.widened(span);
        let skip = span.offset - wide.offset;
        let mut sink = Sink { extents: &mut extents, skip };
        if self.shards.left_in_stripe(wide.offset) >= wide.length {
            self.extents_of_one(wide, &mut sink).await?;
        } else {
            self.extents_of_all(wide, &mut sink).await?;
        }
        Ok(extents)
    }

    /// One shard serves all of the span. What one call returns is enough for an answer.
    async fn extents_of_one(&self, span: Span, sink: &mut Sink<'_>) -> Result<(), Error> {
        for extent in self.ask(self.shards.index(span.offset), span).await? {
            if !sink.push(extent.length, extent.status) {
                break;
            }
        }
        Ok(())
    }

    /// Walks over the span and takes the extent of each stripe from the shard to which it belongs.
    /// Where all shards agree, the walk need not stop at the end of the stripe.
    async fn extents_of_all(&self, span: Span, sink: &mut Sink<'_>) -> Result<(), Error> {
        // A shard that was not started has the extents of a fresh instance, which started ones
        // report for stripes that are not theirs.
        let mut views = Vec::with_capacity(self.shards.count());
        for index in 0..self.shards.count() {
            views.push(self.shards.lock(index).await.is_started().then(View::default));
        }
        let proxy = views.iter().position(Option::is_some).unwrap_or(0);
        views[proxy].get_or_insert_default();
        let mut at = span.offset;
        // Where shards disagree stripe by stripe, the walk could take longer than anybody wants to
        // wait.
        let mut steps = (MAX_WORK / views.len()).max(1);
        while at < span.end() && steps > 0 {
            steps -= 1;
            let mut same = true;
            let mut common_end = u64::MAX;
            let mut first = None;
            for (index, view) in views.iter_mut().enumerate() {
                let Some(view) = view else { continue };
                if !view.advance(at) {
                    let rest = Span { offset: at, length: span.end() - at };
                    view.refill(at, self.ask(index, rest).await?);
                    consume_budget().await;
                }
                let (status, end) = view.run();
                same &= *first.get_or_insert(status) == status;
                common_end = common_end.min(end);
            }
            let owner = self.shards.index(at);
            let view = views[owner].as_ref().or(views[proxy].as_ref());
            let (status, own_end) = view.expect("the proxy has a view").run();
            let stripe_end = at.saturating_add(self.shards.left_in_stripe(at));
            let end = if same { common_end } else { own_end.min(stripe_end) };
            if !sink.push(end - at, status) {
                break;
            }
            at = end;
        }
        Ok(())
    }

    async fn ask(&self, index: usize, span: Span) -> Result<Vec<Extent>, Error> {
        let mut shard = self.shard_to_read(index).await?;
        let answer = shard.instance_mut().extents(span).await;
        self.kill_on_fault(&mut shard, answer)
    }
}

/// Builds the answer, without what lies before the span that was asked for.
struct Sink<'a> {
    extents: &'a mut Extents,
    skip: u64,
}

impl Sink<'_> {
    /// Adds an extent. Returns whether more are wanted.
    fn push(&mut self, length: u64, status: Status) -> bool {
        let skipped = length.min(self.skip);
        self.skip -= skipped;
        self.extents.push(length - skipped, status)
    }
}

/// The extents that one shard returned for the current position and what follows.
#[derive(Default)]
struct View {
    extents: Vec<Extent>,
    /// The index of the current one.
    index: usize,
    /// The end of the current one.
    end: u64,
}

impl View {
    /// Moves to the extent that contains `at`. Returns false if the shard has to be asked for more.
    fn advance(&mut self, at: u64) -> bool {
        while self.index < self.extents.len() && self.end <= at {
            self.index += 1;
            if let Some(extent) = self.extents.get(self.index) {
                self.end += extent.length;
            }
        }
        self.index < self.extents.len()
    }

    /// Starts over with at least one extent from `at` on.
    fn refill(&mut self, at: u64, extents: Vec<Extent>) {
        self.end = at + extents[0].length;
        self.index = 0;
        self.extents = extents;
    }

    fn run(&self) -> (Status, u64) {
        (self.extents[self.index].status, self.end)
    }
}
