//! The heuristic that keeps a vertex's neighbours diverse.
//!
//! Algorithm 4 of Malkov and Yashunin, with `keepPrunedConnections`: a
//! candidate is kept when it is nearer to the vertex than to every neighbour
//! kept so far; places left over go to the nearest of the others.

/// Chooses at most `limit` of the candidates, whose distances to the vertex
/// are given in ascending order; `between(i, j)` is the distance of two
/// candidates. Returns indices of candidates, the diverse ones first, and how
/// many these are.
pub fn select_diverse(
    distances: &[f32],
    limit: usize,
    mut between: impl FnMut(usize, usize) -> f32,
) -> (Vec<usize>, usize) {
    let mut kept: Vec<usize> = Vec::with_capacity(limit);
    let mut pruned = Vec::new();
    for (candidate, &distance) in distances.iter().enumerate() {
        if kept.len() == limit {
            break;
        }
        if kept.iter().all(|&k| distance < between(candidate, k)) {
            kept.push(candidate);
        } else {
            pruned.push(candidate);
        }
    }
    let diverse = kept.len();
    kept.extend(pruned.into_iter().take(limit - diverse));
    (kept, diverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on a line, seen from 0.
    fn on_a_line(points: &[f32], limit: usize) -> Vec<f32> {
        let distances: Vec<f32> = points.iter().map(|p| p.abs()).collect();
        let (chosen, _) = select_diverse(&distances, limit, |i, j| (points[i] - points[j]).abs());
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

    #[test]
    fn fewer_candidates_than_places() {
        assert_eq!(on_a_line(&[1.0], 4), [1.0]);
        assert!(on_a_line(&[], 4).is_empty());
    }
}
