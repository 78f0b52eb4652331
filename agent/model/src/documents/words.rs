//! What is wrong with a text that is no YAML, in words for who wrote it. The library speaks of its
//! own insides.

/// What a message of the library holds, and what is said instead. The first that fits counts.
const SENTENCES: [(&[&str], &str); 15] = [
    (
        &["tabs ", "tab cannot", " a tab"],
        "a tab stands where YAML takes spaces alone",
    ),
    (
        &["duplicate key", "duplicate mapping key"],
        "the same key stands here twice",
    ),
    (
        &["unclosed quote", "quoted scalar", "invalid trailing content"],
        "text in quotes is not closed, or something follows its closing quote",
    ),
    (
        &["bracket", "flow", "',' or", "inside a block"],
        "a list or map in brackets is not closed, or a comma is missing in it",
    ),
    (
        &[
            "mapping values are not allowed",
            "mapping keys are not allowed",
            "simple key",
            "':'",
        ],
        "a key and its value do not fit here: is it indented rightly, and does text with a colon stand in quotes?",
    ),
    (
        &["block mapping", "expected key"],
        "a key of the map was expected here: is it indented like the others?",
    ),
    (
        &["block sequence", "block collection", "'-'"],
        "an item of the list (- ...) was expected here: is it indented like the others?",
    ),
    (&["block scalar"], "a block of text (| or >) is not indented rightly"),
    (&["indent"], "this line is not indented rightly"),
    (
        &["anchor", "alias", "reference to unknown"],
        "an alias (*NAME) leads nowhere, or anchors and aliases expand to too much",
    ),
    (&["merge"], "what << merges is no map"),
    (&["tag", "!binary"], "this tag (!NAME) cannot be read"),
    (
        &["directive", "document end", "document start"],
        "this line begins with what YAML keeps for itself (%, --- or ...)",
    ),
    (
        &["budget", "limit", "too large"],
        "the document is too large, or nested too deeply",
    ),
    (
        &["eof", "end of input", "end of file"],
        "the text ends in the middle of a value",
    ),
];

/// The sentence for a message of the library.
pub(super) fn sentence(message: &str) -> String {
    let message = message.to_lowercase();
    let fits = |(parts, _): &&(&[&str], &str)| parts.iter().any(|part| message.contains(part));
    let found = SENTENCES.iter().find(fits).map(|(_, sentence)| (*sentence).to_owned());
    if let Some(found) = found {
        return found;
    }
    let character = message
        .strip_prefix("unexpected character: `")
        .and_then(|rest| rest.split('\'').next());
    match character {
        Some(character) => format!("{character:?} cannot stand here: text that begins with it needs quotes"),
        None => "it is no valid YAML here".to_owned(),
    }
}
