//! Matrix product with bounds-checked operands, over `matrixmultiply`.

use crate::real::Real;

/// Checks that an `rows x cols` view with these strides lies inside `len` elements.
fn check(name: &str, rows: usize, cols: usize, (rs, cs): (usize, usize), len: usize) {
    let last = (rows - 1)
        .checked_mul(rs)
        .zip((cols - 1).checked_mul(cs))
        .and_then(|(r, c)| r.checked_add(c));
    assert!(
        last.is_some_and(|last| last < len),
        "gemm: {name} is {rows} x {cols} with strides ({rs}, {cs}), the slice has {len} elements"
    );
}

/// `C = alpha A B + beta C`, with A `m x k`, B `k x n`, C `m x n` and `(row, column)` strides.
///
/// One thread: callers split the rows. With `beta = 0` the former C is not read.
///
/// # Panics
/// If an operand leaves its slice, or two elements of C share a place.
#[allow(clippy::too_many_arguments)]
#[inline]
pub fn gemm<T: Real>(
    m: usize,
    k: usize,
    n: usize,
    alpha: T,
    a: &[T],
    (rsa, csa): (usize, usize),
    b: &[T],
    (rsb, csb): (usize, usize),
    beta: T,
    c: &mut [T],
    (rsc, csc): (usize, usize),
) {
    if m == 0 || n == 0 {
        return;
    }
    check("C", m, n, (rsc, csc), c.len());
    // The check above bounds the products below.
    let by_rows = (n == 1 || csc > 0) && (m == 1 || rsc > (n - 1) * csc);
    let by_columns = (m == 1 || rsc > 0) && (n == 1 || csc > (m - 1) * rsc);
    assert!(
        by_rows || by_columns,
        "gemm: the elements of C overlap with strides ({rsc}, {csc})"
    );
    if k > 0 {
        check("A", m, k, (rsa, csa), a.len());
        check("B", k, n, (rsb, csb), b.len());
    }
    let stride = usize::cast_signed;
    // SAFETY: all three views lie inside their slices, C is exclusive and its elements distinct;
    // a stride beyond `isize` can only belong to an axis of length one, where it is not used.
    unsafe {
        T::gemm_raw(
            m,
            k,
            n,
            alpha,
            a.as_ptr(),
            stride(rsa),
            stride(csa),
            b.as_ptr(),
            stride(rsb),
            stride(csb),
            beta,
            c.as_mut_ptr(),
            stride(rsc),
            stride(csc),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(i: usize) -> f64 {
        ((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0
    }

    fn check_product<T: Real>(tolerance: f64) {
        for &(m, k, n) in &[
            (1, 1, 1),
            (3, 5, 2),
            (17, 31, 13),
            (65, 7, 129),
            (4, 0, 3),
            (33, 128, 1),
        ] {
            for transpose in 0..8 {
                let strides = |bit: usize, rows: usize, cols: usize| {
                    // One element of padding between the lines.
                    if transpose & bit == 0 {
                        (cols + 1, 1)
                    } else {
                        (1, rows + 1)
                    }
                };
                let (sa, sb, sc) = (strides(1, m, k), strides(2, k, n), strides(4, m, n));
                let fill = |len, seed| {
                    (0..len)
                        .map(|i| T::from_f64(number(i + seed)))
                        .collect::<Vec<_>>()
                };
                let a = fill((m + 1) * (k + 1), 1);
                let b = fill((k + 1) * (n + 1), 2);
                let mut c = fill((m + 1) * (n + 1), 3);
                let before = c.clone();
                gemm(
                    m,
                    k,
                    n,
                    T::from_f64(2.0),
                    &a,
                    sa,
                    &b,
                    sb,
                    T::from_f64(0.5),
                    &mut c,
                    sc,
                );
                for i in 0..m {
                    for j in 0..n {
                        let mut want = 0.5 * before[i * sc.0 + j * sc.1].to_f64();
                        for p in 0..k {
                            want += 2.0
                                * a[i * sa.0 + p * sa.1].to_f64()
                                * b[p * sb.0 + j * sb.1].to_f64();
                        }
                        let got = c[i * sc.0 + j * sc.1].to_f64();
                        assert!(
                            (got - want).abs() < tolerance,
                            "{m} {k} {n} {transpose}: {got} {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn agrees_with_the_definition() {
        check_product::<f64>(1e-12);
        check_product::<f32>(1e-4);
    }

    #[test]
    #[should_panic(expected = "gemm: B")]
    fn short_operand_is_refused() {
        gemm(
            2,
            2,
            2,
            1.0,
            &[0.0; 4],
            (2, 1),
            &[0.0; 3],
            (2, 1),
            0.0,
            &mut [0.0; 4],
            (2, 1),
        );
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_result_is_refused() {
        gemm(
            2,
            2,
            2,
            1.0,
            &[0.0; 4],
            (2, 1),
            &[0.0; 4],
            (2, 1),
            0.0,
            &mut [0.0; 4],
            (1, 1),
        );
    }
}
