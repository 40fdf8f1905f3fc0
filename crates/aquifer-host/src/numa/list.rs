//! Linux's lists of numbers: `0-3,8`.

/// More numbers than any kernel has processors or nodes (`NR_CPUS` is at most 8192). A longer list is garbled, and not worth the
/// memory that it would take.
const COUNT_MAX: u32 = 1 << 16;

/// The numbers of a list, rising, each once; `None` if it is garbled. A list may be empty.
pub(super) fn parse(text: &str) -> Option<Vec<u32>> {
    let text = text.trim();
    let mut numbers = Vec::new();
    if text.is_empty() {
        return Some(numbers);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last >= COUNT_MAX {
            return None;
        }
        numbers.extend(first..=last);
        if numbers.len() > COUNT_MAX as usize {
            return None;
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn numbers_and_ranges() {
        assert_eq!(parse("0\n"), Some(vec![0]));
        assert_eq!(parse("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse("\n"), Some(vec![]));
        assert_eq!(parse("8,0-2,1"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse("65535"), Some(vec![65535]));
    }

    #[test]
    fn garbled_lists_are_none_and_take_no_memory() {
        for text in
            ["x", "0-", "-1", "0,,1", "3-1", "0 1", "0-4294967295", "65536", "99999999999", "0-3:2/4", ","]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
        let endless = vec!["0-65535"; 100].join(",");
        assert_eq!(parse(&endless), None);
    }
}
