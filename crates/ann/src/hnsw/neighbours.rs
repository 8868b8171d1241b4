//! The heuristic that keeps a vertex's neighbours diverse.
//!
//! Algorithm 4 of Malkov and Yashunin, with `keepPrunedConnections`: a
//! candidate is kept when it is nearer to the vertex than to every neighbour
//! kept so far; places left over go to the nearest of the others.
//!
//! Lists of usual length have more places than there are such neighbours. While
//! a list has many left, *nearer* has a little slack, as in Subramanya et al.,
//! "DiskANN: Fast Accurate Billion-point Nearest Neighbor Search on a Single
//! Node", NeurIPS 2019: a search has more ways to go on. In a short list, the
//! slack would take places from neighbours that are farther away.
//!
//! A new vertex chooses among candidates ([`Heuristic::select`]). When a link is
//! added to a list that was chosen before ([`Heuristic::add`]), comparing every
//! two neighbours again would be dear. Instead, each link remembers whether its
//! neighbour is diverse, and only what the new one changes is worked out.

use std::cmp::Ordering;

use super::layout::{Options, Storage, Vertex};
use crate::Metric;

/// A link of a vertex, as the heuristic sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// The ordering key of the two vertices.
    pub distance: f32,
    /// Whether the neighbour is diverse: nearer to the vertex, but for the slack, than
    /// to every diverse neighbour that is nearer still.
    pub diverse: bool,
    /// The neighbour.
    pub vertex: Vertex,
}

/// Of the places of a list, so many are filled with slack.
const WITH_SLACK: (usize, usize) = (2, 3);

/// The heuristic for the list of a vertex.
#[derive(Debug, Clone, Copy)]
pub struct Heuristic {
    /// Whose distances have slack, if any have.
    slack: Option<Metric>,
    capacity: usize,
}

/// Links that are not diverse come after those that are, and farther ones after
/// nearer ones.
fn by_use(a: &Link, b: &Link) -> Ordering {
    let diverse_first = b.diverse.cmp(&a.diverse);
    diverse_first.then(a.distance.total_cmp(&b.distance))
}

/// The index of the link that is the first to go: the farthest one that is not
/// diverse, or the farthest of all.
pub fn least_useful(links: &[Link]) -> Option<usize> {
    (0..links.len()).max_by(|&a, &b| by_use(&links[a], &links[b]))
}

impl Heuristic {
    /// For lists of so many places in an index. Sparse vectors have no slack: most
    /// have nothing in common, and are all as far from each other.
    pub fn new(options: &Options, capacity: usize) -> Self {
        let is_dense = options.storage != Storage::Sparse;
        Heuristic {
            slack: is_dense.then_some(options.key_metric()),
            capacity,
        }
    }

    /// Places of a list.
    pub fn capacity(self) -> usize {
        self.capacity
    }

    /// Whether, beside `diverse` neighbours that are, a vertex at a distance is not
    /// behind one of them, from which it has the distance `between`.
    fn is_apart(self, diverse: usize, distance: f32, between: f32) -> bool {
        let (part, of) = WITH_SLACK;
        match self.slack {
            Some(metric) if diverse * of < self.capacity * part => {
                distance < metric.lengthened(between)
            }
            _ => distance < between,
        }
    }

    /// Whether a candidate at this distance from the vertex is diverse among the
    /// links; `between(i, n)` is its distance to the neighbour n of link i.
    pub fn is_diverse(
        self,
        links: &[Link],
        distance: f32,
        mut between: impl FnMut(usize, Vertex) -> f32,
    ) -> bool {
        let diverse = count_diverse(links);
        let mut nearer = (links.iter().enumerate())
            .filter(|(_, link)| link.diverse && link.distance <= distance);
        nearer.all(|(i, link)| self.is_apart(diverse, distance, between(i, link.vertex)))
    }

    /// Adds a link to a list; `between(i, n)` is the distance of the new neighbour to
    /// the neighbour n of link i. Where there is no room, the [`least_useful`] one goes.
    ///
    /// Returns the index of the new link: it took the place of another one, or is
    /// the last. `None` if it was the one to go; then, the list is as it was.
    pub fn add(
        self,
        links: &mut Vec<Link>,
        distance: f32,
        vertex: Vertex,
        mut between: impl FnMut(usize, Vertex) -> f32,
    ) -> Option<usize> {
        let diverse = self.is_diverse(links, distance, &mut between);
        let new = Link {
            distance,
            diverse,
            vertex,
        };
        if diverse {
            let mut left = count_diverse(links);
            for (i, link) in links.iter_mut().enumerate() {
                if link.diverse && link.distance > distance {
                    link.diverse = self.is_apart(left, link.distance, between(i, link.vertex));
                    left -= usize::from(!link.diverse);
                }
            }
        }
        if links.len() < self.capacity {
            links.push(new);
            return Some(links.len() - 1);
        }
        let last = least_useful(links)?;
        if by_use(&new, &links[last]).is_gt() {
            return None;
        }
        links[last] = new;
        Some(last)
    }

    /// Chooses neighbours among candidates, whose distances to the vertex are given
    /// in ascending order; `between(i, j)` is the distance of two candidates.
    /// Returns indices of candidates, the diverse ones first, and how many these
    /// are.
    pub fn select(
        self,
        distances: &[f32],
        mut between: impl FnMut(usize, usize) -> f32,
    ) -> (Vec<usize>, usize) {
        let mut kept: Vec<usize> = Vec::with_capacity(self.capacity);
        let mut pruned = Vec::new();
        for (candidate, &distance) in distances.iter().enumerate() {
            let diverse = kept.len();
            if diverse == self.capacity {
                break;
            }
            let mut others = kept.iter();
            if others.all(|&k| self.is_apart(diverse, distance, between(candidate, k))) {
                kept.push(candidate);
            } else {
                pruned.push(candidate);
            }
        }
        let diverse = kept.len();
        kept.extend(pruned.into_iter().take(self.capacity - diverse));
        (kept, diverse)
    }
}

fn count_diverse(links: &[Link]) -> usize {
    links.iter().filter(|link| link.diverse).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heuristic(capacity: usize) -> Heuristic {
        Heuristic {
            slack: Some(Metric::L2),
            capacity,
        }
    }

    /// Points on a line, seen from 0.
    fn on_a_line(points: &[f32], limit: usize) -> Vec<f32> {
        let distances: Vec<f32> = points.iter().map(|p| p * p).collect();
        let (chosen, _) =
            heuristic(limit).select(&distances, |i, j| (points[i] - points[j]).powi(2));
        chosen.into_iter().map(|i| points[i]).collect()
    }

    #[test]
    fn keeps_one_of_a_cluster_and_the_far_side() {
        assert_eq!(on_a_line(&[1.0, 1.1, 1.2, -2.0], 2), [1.0, -2.0]);
    }

    #[test]
    fn fills_up_with_the_nearest_pruned() {
        assert_eq!(on_a_line(&[1.0, 1.1, 1.2, -2.0], 3), [1.0, -2.0, 1.1]);
    }

    /// Adds points on a line to the links of a vertex at 0.
    fn added(points: &[f32], capacity: usize) -> Vec<(f32, bool)> {
        let mut links: Vec<Link> = Vec::new();
        for (vertex, &point) in (0_u32..).zip(points) {
            heuristic(capacity).add(&mut links, point * point, vertex, |_, n| {
                (points[n as usize] - point).powi(2)
            });
        }
        links
            .iter()
            .map(|link| (points[link.vertex as usize], link.diverse))
            .collect()
    }

    #[test]
    fn a_nearer_link_makes_those_behind_it_not_diverse() {
        assert_eq!(added(&[2.0, -3.0], 4), [(2.0, true), (-3.0, true)]);
        assert_eq!(
            added(&[2.0, -3.0, 1.5], 4),
            [(2.0, false), (-3.0, true), (1.5, true)]
        );
        // Not only the farthest goes, but one that a nearer one stands for.
        assert_eq!(added(&[2.0, -3.0, 1.5], 2), [(1.5, true), (-3.0, true)]);
    }

    /// Vertices at distance 1, each of them `between` from all others.
    fn diverse_of_alike(count: u32, between: f32, capacity: usize) -> usize {
        let mut links = Vec::new();
        for vertex in 0..count {
            heuristic(capacity).add(&mut links, 1.0, vertex, |_, _| between);
        }
        let distances = vec![1.0; count as usize];
        let (_, diverse) = heuristic(capacity).select(&distances, |_, _| between);
        assert_eq!(count_diverse(&links), diverse);
        diverse
    }

    #[test]
    fn two_thirds_of_a_list_are_filled_with_slack() {
        assert_eq!(diverse_of_alike(9, 1.01, 9), 9);
        assert_eq!(diverse_of_alike(9, 0.98, 9), 6);
        assert_eq!(diverse_of_alike(9, 0.94, 9), 1);
    }

    #[test]
    fn links_that_are_no_longer_diverse_leave_room_for_slack() {
        let mut links = Vec::new();
        for vertex in 0..6 {
            heuristic(9).add(&mut links, 1.0, vertex, |_, _| 0.98);
        }
        assert_eq!(count_diverse(&links), 6);
        // A nearer one, behind which the first of them is and the others are not.
        let between = |_, n| if n == 0 { 0.5 } else { 0.98 };
        heuristic(9).add(&mut links, 0.9, 6, between);
        assert_eq!(count_diverse(&links), 6);
        assert!(!links[0].diverse);
    }

    #[test]
    fn sets_with_nothing_in_common_have_no_slack() {
        for slack in [None, Some(Metric::Jaccard)] {
            let heuristic = Heuristic { slack, capacity: 9 };
            let (_, diverse) = heuristic.select(&[1.0; 9], |_, _| 1.0);
            assert_eq!(diverse, 1);
        }
    }

    #[test]
    fn a_link_that_is_the_least_useful_is_turned_down() {
        assert_eq!(added(&[1.0, -1.0, 5.0], 2), [(1.0, true), (-1.0, true)]);
        // Behind a neighbour, but nearer than another that is behind one.
        assert_eq!(added(&[1.0, 5.0, 4.0], 2), [(1.0, true), (4.0, false)]);
    }

    /// Adding candidates nearest first keeps those that selecting does.
    #[test]
    fn adding_in_order_is_selecting() {
        let points = [1.0, 1.1, 1.2, -2.0, 3.5, -4.5];
        let chosen = on_a_line(&points, 4);
        let mut kept: Vec<f32> = added(&points, 4).iter().map(|(point, _)| *point).collect();
        kept.sort_by(|a, b| {
            chosen
                .iter()
                .position(|c| c == a)
                .cmp(&chosen.iter().position(|c| c == b))
        });
        assert_eq!(kept, chosen);
    }

    #[test]
    fn fewer_candidates_than_places() {
        assert_eq!(on_a_line(&[1.0], 4), [1.0]);
        assert!(on_a_line(&[], 4).is_empty());
    }
}
