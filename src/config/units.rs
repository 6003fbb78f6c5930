//! Durations and sizes as people write them.

use std::time::Duration;

/// `500ms`, `30s`, `1m`, `2h`, `7d`: a whole number and a unit; at most ten years.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let total = number.checked_mul(millis)?;
    (total <= 3_653 * 86_400_000).then(|| Duration::from_millis(total))
}

/// `100B`, `64KiB`, `4MiB`, `1GiB`: a whole number and a unit.
pub(super) fn size(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    usize::try_from(number.checked_mul(bytes)?).ok()
}

fn split(text: &str) -> Option<(u64, &str)> {
    let unit = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(unit)?;
    Some((number.parse().ok()?, unit))
}

/// A duration as text: `30s`, `1m`, for commands.
///
/// # Errors
/// What a duration looks like.
pub(crate) fn duration_argument(text: &str) -> Result<Duration, String> {
    duration(text).filter(|length| !length.is_zero()).ok_or_else(|| "write it as `90s`, `30m`, `8h` or `7d`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_as_written() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1m"), Some(Duration::from_secs(60)));
        assert_eq!(size("4MiB"), Some(4 << 20));
        for wrong in ["", "30", "s", "1.5s", "-1s", "30 s", "1y", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        for wrong in ["", "4", "4MB", "MiB", "-1B", "4mib", "99999999999999999999GiB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
