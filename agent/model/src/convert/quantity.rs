//! Quantities of Kubernetes: `1.5k`, `3Mi`, `2e6`.

/// Beyond any limit that is checked against. Small enough that nothing here overflows.
const MOST: u128 = u64::MAX as u128;

/// The quantity, rounded up to a whole number, not below 0 and not above `u64::MAX`; `None` if it
/// does not parse.
pub(super) fn parse(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, rest) = digits(rest);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    let (ten, two) = exponents(suffix)?;
    if negative {
        return Some(0);
    }
    let fraction = fraction.trim_end_matches('0');
    let whole = whole.trim_start_matches('0');
    let mut all = String::with_capacity(whole.len().saturating_add(fraction.len()));
    all.push_str(whole);
    all.push_str(fraction);
    let ten = ten.saturating_sub(i64::try_from(fraction.len()).unwrap_or(i64::MAX));
    Some(u64::try_from(scaled(&all, ten, two)).unwrap_or(u64::MAX))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(end)
}

/// Powers of ten and of two that a suffix stands for.
fn exponents(suffix: &str) -> Option<(i64, u32)> {
    Some(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            (exponent.parse().ok()?, 0)
        }
    })
}

/// ceil(digits * 10^ten * 2^two), at most [`MOST`].
fn scaled(digits: &str, ten: i64, two: u32) -> u128 {
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    // Digits before and after the decimal point.
    let count = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let point = count.saturating_add(ten);
    if point > 20 {
        return MOST;
    }
    let keep = usize::try_from(point.max(0)).unwrap_or(0);
    let whole: u128 = match digits.get(..keep.min(digits.len())) {
        Some("") | None => 0,
        Some(kept) => {
            let zeros = keep.saturating_sub(kept.len());
            let power = 10_u128.saturating_pow(u32::try_from(zeros).unwrap_or(u32::MAX));
            kept.parse::<u128>().unwrap_or(MOST).saturating_mul(power)
        }
    };
    let rest = digits.get(keep.min(digits.len())..).unwrap_or_default();
    let base = whole.saturating_mul(1 << two);
    // The fraction as thirty digits behind the point, rounded up: more precise than anything that
    // can matter.
    let leading = usize::try_from(point.min(0).unsigned_abs()).unwrap_or(usize::MAX);
    let mut fraction: u128 = 0;
    let mut inexact = false;
    for (i, digit) in rest.bytes().enumerate() {
        match 29_usize.checked_sub(leading.saturating_add(i)) {
            Some(power) => {
                let power = 10_u128.saturating_pow(u32::try_from(power).unwrap_or(0));
                fraction = fraction.saturating_add(u128::from(digit.saturating_sub(b'0')).saturating_mul(power));
            }
            None => inexact |= digit != b'0',
        }
    }
    let one = 10_u128.saturating_pow(30);
    // fraction < one < 2^100: shifting by up to 60 bits is done in two steps.
    let (mut quotient, mut remainder) = (0_u128, fraction);
    for _ in 0..two {
        remainder = remainder.saturating_mul(2);
        quotient = quotient.saturating_mul(2);
        if remainder >= one {
            remainder = remainder.saturating_sub(one);
            quotient = quotient.saturating_add(1);
        }
    }
    let up = u128::from(remainder > 0 || inexact);
    base.saturating_add(quotient).saturating_add(up).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn quantities() {
        for (text, value) in [
            ("1k", 1_000),
            ("1.5k", 1_500),
            ("1.01P", 1_010_000_000_000_000),
            ("8Gi", 8 << 30),
            ("0.5Ki", 512),
            ("1.1Ki", 1_127),
            ("2e6", 2_000_000),
            ("2E-1", 1),
            ("1e+3", 1_000),
            ("1m", 1),
            ("1001m", 2),
            ("1000m", 1),
            ("0", 0),
            ("00.0", 0),
            ("-5M", 0),
            ("+5", 5),
            (".5k", 500),
            ("1.", 1),
            ("k", 0),
            ("10E", 10_000_000_000_000_000_000),
            ("100E", u64::MAX),
            ("99999999999999999999999999999999999999999999", u64::MAX),
            ("16Ei", u64::MAX),
            ("0.0000000000000000000000000000000000001", 1),
            ("1e99999", u64::MAX),
            ("1e-99999", 1),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for text in [
            "", "x", "1x", "1K", "1 k", " 1", "1kk", "1e", "1e5k", "1.2.3", "0x10", "1mi", "--1", "e",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
