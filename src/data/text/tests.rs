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
            // The held-out word is new.
            TokenizerKind::Words => assert_eq!(decoded, "the cat the cat sat on the mat 3 times <unknown>"),
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
    assert!(lost(&Tokenizer::letters(), "agent 007 is _ é").contains("got '0', '7', 'é'"));
    assert!(lost(words.tokenizer(), "the xylophone _").contains("got 'xylophone'"));
}

#[test]
fn words_are_those_of_any_language_and_marks_between_them_are_left_out() {
    let decoded = |text: &str| {
        let set = TextSet::from_bytes("words", text.repeat(20).as_bytes(), TokenizerKind::Words).unwrap();
        set.tokenizer().decode(&set.train()[..4])
    };
    assert_eq!(
        decoded("\u{c9}t\u{e9}: \u{ab}l'\u{e2}me\u{bb} n'a que 3,5 \u{20ac}. "),
        "\u{e9}t\u{e9} l'\u{e2}me n'a que"
    );
    // The accent as a mark of its own, and a vowel sign, belong to their letters.
    assert_eq!(
        decoded("cafe\u{301} \u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940} -- _ to be "),
        "cafe\u{301} \u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940} to be"
    );
    let set = TextSet::from_bytes("words", "don't stop me now ".repeat(20).as_bytes(), TokenizerKind::Words).unwrap();
    let holes = set.tokenizer().infill("Don't ____ me, _").unwrap();
    assert_eq!(holes.iter().map(Option::is_some).collect::<Vec<bool>>(), [true, false, true, false]);
}

#[test]
fn characters_do_not_know_how_a_file_ends_its_lines() {
    let set = |text: &str| TextSet::from_bytes("lines", text.as_bytes(), TokenizerKind::Characters).unwrap();
    let (dos, unix) = (set("\u{feff}one\r\ntwo\r\n"), set("one\ntwo\n"));
    assert_eq!((dos.tokenizer(), dos.train(), dos.held_out()), (unix.tokenizer(), unix.train(), unix.held_out()));
}

#[test]
fn files_of_bytes_hold_the_bytes_and_other_files_the_text() {
    let bytes = Tokenizer::bytes();
    assert_eq!(bytes.to_bytes(&[0xc3, 0xff, 10, 256]), [0xc3, 0xff, 10, b'_']);
    assert_eq!(bytes.decode(&[0x61, 0xff]), "a\u{fffd}");
    assert_eq!(Tokenizer::letters().to_bytes(&[0, 26, 27]), b"a _");
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
        let mask = text(b"fill\nin ____ here", kind);
        assert!(mask.contains("expected no '_'") && mask.contains("on line 2"), "{mask}");
    }
    let greek = text("\u{3b1}\u{3b2}\u{3b3} a b".as_bytes(), TokenizerKind::Letters);
    assert!(greek.contains("got 2 of 5 letters; take characters"), "{greek}");
    assert!(text("\u{3b1}".as_bytes(), TokenizerKind::Letters).contains("got 0 of 1 letters; take characters"));
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
