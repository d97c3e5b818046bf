//! Random numbers that are the same each time if there is a seed.

use memnbd_guest::{OpenRequest, content, random_u64};

/// A sequence of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    seed: Option<u64>,
    /// How many numbers were drawn.
    drawn: u64,
}

impl Random {
    /// Returns the sequence of a seed, or without one a sequence that nobody can predict.
    pub const fn new(seed: Option<u64>) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Returns the sequence for a parameter that is a seed.
    pub fn from_request(request: &OpenRequest, name: &str) -> Self {
        Self::new(request.number(name).map(|seed| seed as u64))
    }

    /// Draws a number.
    pub fn draw(&mut self) -> u64 {
        self.drawn += 1;
        match self.seed {
            Some(seed) => content::random_at(seed, self.drawn - 1),
            None => random_u64(),
        }
    }

    /// Draws a number that is at least 0 and less than 1.
    pub fn unit(&mut self) -> f64 {
        unit(self.draw())
    }

    /// Returns true with a probability.
    pub fn happens(&mut self, probability: f64) -> bool {
        probability >= 1.0 || (probability > 0.0 && self.unit() < probability)
    }

    /// Draws a number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }
}

/// Turns a random number into one that is at least 0 and less than 1.
pub(crate) fn unit(random: u64) -> f64 {
    // As many bits as the number has.
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_repeats_the_numbers() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..10).map(|_| random.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(Some(1)), draw(Some(1)));
        assert_ne!(draw(Some(1)), draw(Some(2)));
        assert_ne!(draw(None), draw(None));
    }

    #[test]
    fn numbers_are_below_the_bound_and_reach_it() {
        let mut random = Random::new(Some(3));
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[random.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (150..250).contains(count)), "{seen:?}");
        assert_eq!(random.below(1), 0);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random.unit())));
    }

    #[test]
    fn certain_and_impossible_events_draw_no_numbers() {
        let mut random = Random::new(Some(3));
        assert!(random.happens(1.0) && !random.happens(0.0));
        assert_eq!(random, Random::new(Some(3)));
        let happened = (0..1000).filter(|_| random.happens(0.3)).count();
        assert!((250..350).contains(&happened), "{happened}");
    }
}
