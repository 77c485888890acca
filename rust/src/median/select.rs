//! Median of many numbers, in little more than one pass over them.

use crate::real::Real;

/// Numbers that are sorted to guess where the median lies.
const SAMPLE: usize = 2048;

/// Ranks of the sample on either side of its middle: five standard deviations of the guess.
const MARGIN: usize = 113;

fn order<T: Real>(p: &T, q: &T) -> std::cmp::Ordering {
    p.to_f64().total_cmp(&q.to_f64())
}

/// Mean of the numbers of rank `lower` and `upper`, where `upper` is `lower` or the next.
fn middle<T: Real>(values: &mut [T], lower: usize, upper: usize) -> f64 {
    let (_, &mut small, above) = values.select_nth_unstable_by(lower, order);
    let large = if upper == lower {
        small
    } else {
        above.iter().fold(T::INFINITY, |least, &v| v.min(least))
    };
    small.to_f64() / 2.0 + large.to_f64() / 2.0
}

/// Median as NumPy defines it (the mean of the two middle values), 0 for no values.
///
/// None of the values may be NaN.
pub(super) fn median<T: Real>(values: &[T]) -> f64 {
    let n = values.len();
    let (lower, upper) = (n.saturating_sub(1) / 2, n / 2);
    if n == 0 {
        return 0.0;
    }
    if n > 4 * SAMPLE {
        // An evenly spaced sample encloses the median; the rest only has to be counted.
        let mut sample: Vec<T> = (0..SAMPLE).map(|i| values[i * n / SAMPLE]).collect();
        sample.sort_unstable_by(order);
        let (low, high) = (sample[SAMPLE / 2 - MARGIN], sample[SAMPLE / 2 + MARGIN]);
        let mut near = vec![T::ZERO; n / 4];
        let (mut below, mut count) = (0, 0);
        let last = near.len() - 1;
        for &v in values {
            // Written in any case, kept if it counts: no branch that would be mispredicted.
            near[count.min(last)] = v;
            below += usize::from(v < low);
            count += usize::from(v >= low && v <= high);
        }
        if below <= lower && upper < below + count && count <= last {
            return middle(&mut near[..count], lower - below, upper - below);
        }
    }
    middle(&mut values.to_vec(), lower, upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_unequal_values() {
        assert_eq!(median::<f64>(&[]), 0.0);
        assert_eq!(median(&[3.0f32]), 3.0);
        assert_eq!(median(&[1e30f32, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[1.0f64, 1e300, 1e300, 1.0]), 5e299);
    }

    #[test]
    fn many_values_by_sorting() {
        for n in [8193, 8194, 50_001, 200_000] {
            // Spread out, mostly equal, and in an order that misleads the sample.
            let spread: Vec<f64> = (0..n).map(|i| ((i * 7919 + 5) % 100_003) as f64).collect();
            let equal: Vec<f64> = spread.iter().map(|v| (v / 60_000.0).floor()).collect();
            let step = n / SAMPLE;
            let misleading: Vec<f64> = (0..n)
                .map(|i| if i % step == 0 { 1e6 } else { spread[i] })
                .collect();
            for values in [spread, equal, misleading] {
                let mut sorted = values.clone();
                sorted.sort_by(f64::total_cmp);
                let want = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
                assert_eq!(median(&values), want, "{n}");
            }
        }
    }
}
