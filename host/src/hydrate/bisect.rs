//! Finding the rows of a batch that cannot be decided about, by halves: which part to
//! try next, and what all the tries amount to. Pure; it must not ask anybody.

use std::ops::Range;

use crate::cache::Decision;

/// Rows of one batch that are set aside. When there are more, the fault is the
/// component's and not a row's, and no more is tried.
pub(super) const MOST_ASIDE: usize = 16;

/// A batch that is being halved. Every part is tried once, from the batch's beginning
/// to its end.
#[derive(Debug)]
pub(super) struct Bisection {
    /// Parts to try; the next one is last.
    todo: Vec<Range<usize>>,
    decisions: Vec<Decision>,
    decided: usize,
    aside: Vec<(usize, String)>,
}

/// What came of it.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// For each row; of a row without one, that it is evicted.
    pub decisions: Vec<Decision>,
    /// Rows that failed alone, and why.
    pub aside: Vec<(usize, String)>,
    /// Rows of which nothing is known.
    pub given_up: usize,
}

impl Bisection {
    /// Of a batch of so many rows that has failed as a whole.
    pub fn new(rows: usize, why: &str) -> Bisection {
        let mut bisection = Bisection {
            todo: Vec::new(),
            decisions: vec![Decision::Evict; rows],
            decided: 0,
            aside: Vec::new(),
        };
        bisection.failed(0..rows, why);
        bisection
    }

    /// The part to try next, if there is one.
    pub fn next(&mut self) -> Option<Range<usize>> {
        self.todo.pop()
    }

    /// A part has decisions, as many as rows.
    pub fn decided(&mut self, part: Range<usize>, decisions: &[Decision]) {
        self.decided += part.len();
        if let Some(slots) = self.decisions.get_mut(part) {
            for (slot, decision) in slots.iter_mut().zip(decisions) {
                *slot = *decision;
            }
        }
    }

    /// A part has failed.
    pub fn failed(&mut self, part: Range<usize>, why: &str) {
        match part.len() {
            0 => {}
            1 if self.aside.len() == MOST_ASIDE => self.todo.clear(),
            1 => self.aside.push((part.start, why.to_owned())),
            rows => {
                let middle = part.start + rows / 2;
                self.todo.push(middle..part.end);
                self.todo.push(part.start..middle);
            }
        }
    }

    /// What is known by now.
    pub fn found(self) -> Found {
        let known = self.decided + self.aside.len();
        Found {
            given_up: self.decisions.len().saturating_sub(known),
            decisions: self.decisions,
            aside: self.aside,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Tries all parts with a component that fails on these rows; how many tries.
    fn run(rows: usize, bad: &BTreeSet<usize>) -> (Found, usize) {
        let mut bisection = Bisection::new(rows, "whole");
        let mut tries = 0;
        while let Some(part) = bisection.next() {
            tries += 1;
            match part.clone().any(|row| bad.contains(&row)) {
                true => bisection.failed(part, "part"),
                false => bisection.decided(part.clone(), &vec![Decision::Store; part.len()]),
            }
        }
        (bisection.found(), tries)
    }

    #[test]
    fn one_row_of_many_is_found() {
        for bad in [0, 1, 499, 500, 999] {
            let (found, tries) = run(1000, &[bad].into());
            assert_eq!(found.aside, [(bad, "part".to_owned())]);
            assert_eq!(found.given_up, 0);
            let stored = found.decisions.iter().filter(|it| **it == Decision::Store);
            assert_eq!(stored.count(), 999);
            assert_eq!(found.decisions[bad], Decision::Evict);
            assert!(tries <= 20, "{tries}");
        }
    }

    #[test]
    fn a_row_that_is_its_batch_is_not_tried_again() {
        let (found, tries) = run(1, &[0].into());
        assert_eq!((found.aside, tries), (vec![(0, "whole".to_owned())], 0));
        assert_eq!(run(0, &[].into()).0.decisions, []);
    }

    #[test]
    fn when_all_rows_fail_only_some_are_tried_alone() {
        let (found, tries) = run(1000, &(0..1000).collect());
        assert_eq!(found.aside.len(), MOST_ASIDE);
        assert_eq!(found.given_up, 1000 - MOST_ASIDE);
        assert_eq!(found.decisions, [Decision::Evict; 1000]);
        assert!(tries <= 50, "{tries}");
    }

    #[test]
    fn as_many_as_are_set_aside_do_not_take_others_with_them() {
        let (found, _) = run(1000, &(0..MOST_ASIDE).collect());
        assert_eq!((found.aside.len(), found.given_up), (MOST_ASIDE, 0));
        // Nothing says that those after the last one are any better.
        let (found, _) = run(1000, &(0..=MOST_ASIDE).collect());
        assert_eq!(found.aside.len(), MOST_ASIDE);
        assert!(found.given_up > 0);
    }

    #[test]
    fn what_is_not_tried_any_more_is_evicted() {
        let mut bisection = Bisection::new(4, "whole");
        let left = bisection.next().unwrap();
        bisection.decided(left, &[Decision::Store, Decision::Refresh]);
        let decisions = vec![
            Decision::Store,
            Decision::Refresh,
            Decision::Evict,
            Decision::Evict,
        ];
        assert_eq!(
            bisection.found(),
            Found {
                decisions,
                aside: vec![],
                given_up: 2
            }
        );
    }

    proptest! {
        #[test]
        fn exactly_the_bad_rows_are_set_aside(
            rows in 1usize..300,
            bad in prop::collection::btree_set(0usize..300, 0..MOST_ASIDE),
        ) {
            let bad: BTreeSet<usize> = bad.into_iter().filter(|row| *row < rows).collect();
            prop_assume!(!bad.is_empty());
            let (found, tries) = run(rows, &bad);
            let aside: BTreeSet<usize> = found.aside.iter().map(|(row, _)| *row).collect();
            prop_assert_eq!(found.given_up, 0);
            for (row, decision) in found.decisions.iter().enumerate() {
                prop_assert_eq!(*decision == Decision::Evict, bad.contains(&row));
            }
            prop_assert!(tries <= 2 * bad.len() * 9, "{}", tries);
            prop_assert_eq!(aside, bad);
        }
    }
}
