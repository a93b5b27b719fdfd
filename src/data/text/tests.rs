use super::*;

const SAMPLE: &str = "The cat -- the Cat! -- sat.\nOn the mat: 3 times; caf\u{e9}.";

#[test]
fn letters_are_lower_case_with_one_space_for_each_run_of_anything_else() {
    let text = TextSet::from_bytes("sample", SAMPLE.as_bytes(), TokenizerKind::Letters).unwrap();
    let all = [text.train(), text.held_out()].concat();
    assert_eq!(text.tokenizer().decode(&all), "the cat the cat sat on the mat times caf");
    assert_eq!((text.tokenizer().symbols(), all.len(), text.held_out().len()), (27, 40, 4));
    assert_eq!(text.tokenizer().symbol(27), "_");
}

#[test]
fn every_tokenizer_gives_its_text_back() {
    for kind in TokenizerKind::NAMES.map(|name| TokenizerKind::from_name(name).unwrap()) {
        let text = TextSet::from_bytes("sample", SAMPLE.as_bytes(), kind).unwrap();
        let all = [text.train(), text.held_out()].concat();
        let decoded = text.tokenizer().decode(&all);
        match kind {
            TokenizerKind::Bytes | TokenizerKind::Characters => assert_eq!(decoded, SAMPLE),
            TokenizerKind::Letters => assert_eq!(text.tokenizer().encode(&decoded).unwrap(), all),
            // Held-out words are new, and so is the one that the cut divides.
            TokenizerKind::Words => assert_eq!(decoded, "the cat the cat sat on the mat times <unknown>"),
        }
        assert!(all.iter().all(|token| (*token as usize) < text.tokenizer().symbols()), "{kind:?}");
        let stored = serde_json::to_string(text.tokenizer()).unwrap();
        assert_eq!(&serde_json::from_str::<Tokenizer>(&stored).unwrap(), text.tokenizer());
    }
    assert!(TokenizerKind::from_name("letter").unwrap_err().to_string().contains("did you mean \"letters\"?"));
}

#[test]
fn holes_stand_at_any_place_and_unknown_symbols_are_named() {
    let characters = TextSet::from_bytes("sample", SAMPLE.as_bytes(), TokenizerKind::Characters).unwrap();
    let holes = characters.tokenizer().infill("_at__").unwrap();
    assert_eq!(holes.iter().map(Option::is_some).collect::<Vec<bool>>(), [false, true, true, false, false]);
    let text = characters.tokenizer().infill("Zebra: 7 cats").unwrap_err().to_string();
    assert!(text.contains("'7', 'Z', 'b', 'r'"), "{text}");
    let letters = Tokenizer::letters().infill("To be, or ____ to be").unwrap();
    assert_eq!((letters.len(), letters.iter().filter(|token| token.is_none()).count()), (19, 4));
    let bytes = Tokenizer::bytes().infill("a_").unwrap();
    assert_eq!(bytes, [Some(97), None]);
    let words = TextSet::from_bytes("sample", SAMPLE.as_bytes(), TokenizerKind::Words).unwrap();
    let holes = words.tokenizer().infill("the _ sat").unwrap();
    assert!(holes[0].is_some() && holes[1].is_none() && holes[2].is_some());
    let lost = |tokenizer: &Tokenizer, text: &str| tokenizer.infill(text).unwrap_err().to_string();
    assert!(lost(&Tokenizer::letters(), "agent 007 is _ é").contains("got '0', '7', 'é'; leave them out"));
    assert!(lost(words.tokenizer(), "the xylophone _").contains("got 'xylophone'; leave them out"));
}

#[test]
fn bad_texts_are_refused_in_a_sentence() {
    let text = |bytes: &[u8], kind| TextSet::from_bytes("book.txt", bytes, kind).unwrap_err().to_string();
    let kind = TokenizerKind::Characters;
    assert_eq!(text(b"", kind), "text \"book.txt\": expected characters, got an empty text");
    let bad = text(b"abc\xffdef", kind);
    assert!(bad.contains("byte 0xff at offset 3"), "{bad}");
    assert!(TextSet::from_bytes("raw", b"abc\xffdef", TokenizerKind::Bytes).is_ok());
    for kind in [TokenizerKind::Characters, TokenizerKind::Bytes] {
        let mask = text(b"fill in ____ here", kind);
        assert!(mask.contains("expected no '_'") && mask.contains("at token 8"), "{mask}");
    }
    assert!(text(b"1234", TokenizerKind::Letters).contains("expected letters, got none"));
    assert!(text(b"aaaa", kind).contains("2 different symbols"));
    let short = TextSet::from_bytes("book.txt", b"abcdefghijklmnopqrst", kind).unwrap();
    assert_eq!((short.window_starts(18).unwrap(), short.held_out_windows(1).unwrap().len()), (1, 2));
    let sentence = short.window_starts(19).unwrap_err().to_string();
    assert!(sentence.contains("at least one window of 19 tokens, got 18"), "{sentence}");
    assert!(short.held_out_windows(3).unwrap_err().to_string().contains("held-out part"));
    assert!(TextSet::load("no/such/book.txt", kind).is_err());
}

#[test]
fn the_embedded_text_is_whole_and_its_last_tenth_is_held_out() {
    let text = TextSet::load("text", TokenizerKind::Letters).unwrap();
    let (train, held_out) = (text.train().len(), text.held_out().len());
    assert_eq!(held_out, (train + held_out) / 10);
    assert!(text.tokenizer().decode(text.train()).starts_with("paradise lost book i of mans first disobedience"));
    assert!(text.tokenizer().decode(text.held_out()).ends_with("ugh eden took thir solitarie way the end"));
    let other = TextSet::load("text", TokenizerKind::Characters).unwrap();
    assert_ne!(text.fingerprint(), other.fingerprint());
    assert_eq!(text.fingerprint(), TextSet::load("text", TokenizerKind::Letters).unwrap().fingerprint());
}
