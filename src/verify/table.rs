//! Which items an equation belongs to, as docs/math.md has it.

const MATH: &str = include_str!("../../docs/math.md");

/// The first items of the rows that name `query`: an equation `S3.eq8` or an item `item 44`.
pub(super) fn items_of(query: &str) -> Vec<usize> {
    let query = query.trim().to_ascii_lowercase();
    let rows = MATH.lines().filter_map(|line| line.strip_prefix("| item ")?.split(" |").next());
    let named = rows.filter(|cell| names(cell, &query));
    named.filter_map(|cell| numbers(cell).first().map(|(first, _)| *first)).collect()
}

/// Whether an id cell such as `14, 44; S3.eq14, eq15, eq129–131; S0` (without its `item`) names the query.
fn names(cell: &str, query: &str) -> bool {
    let mut parts = cell.split(';').map(|part| part.trim().to_ascii_lowercase());
    let items = parts.next().unwrap_or_default();
    if let Some(item) = query.strip_prefix("item ").and_then(|n| n.trim().parse::<usize>().ok()) {
        return numbers(&items).contains(&(item, item));
    }
    let Some((document, equation)) = query.split_once(".eq") else { return false };
    let Ok(equation) = equation.parse::<usize>() else { return false };
    parts.any(|part| {
        part.strip_prefix(document).is_some_and(|equations| {
            // Words such as `exercise 5` hold numbers of their own.
            let listed = equations.split(',').filter(|text| text.contains("eq"));
            listed.flat_map(numbers).any(|(first, last)| (first..=last).contains(&equation))
        })
    })
}

/// The numbers of a text, `3` as (3, 3) and `129–131` as (129, 131).
fn numbers(text: &str) -> Vec<(usize, usize)> {
    let number = |word: &str| word.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().ok();
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    words
        .filter_map(|word| match word.split_once('–') {
            Some((first, last)) => Some((number(first)?, number(last)?)),
            None => number(word).map(|n| (n, n)),
        })
        .collect()
}
