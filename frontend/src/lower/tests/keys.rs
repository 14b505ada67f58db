//! What changes the digests of steps, and what does not.

use super::*;

#[test]
fn cache_02_relevant_changes_give_new_keys_and_others_do_not() {
    const TEXT: &str = "FROM a\nARG P=1\nENV E=1\nUSER u\nWORKDIR /w\nRUN --mount=type=cache,target=/c x\n\
                        COPY --chmod=644 <<EOF /f\nbody\nEOF\nHEALTHCHECK CMD y\nLABEL l=1\nCMD z\n";
    let original = key(TEXT, &options());
    let relevant = [
        ("FROM a", "FROM b"),
        ("P=1", "P=2"),
        ("E=1", "E=2"),
        ("USER u", "USER v"),
        ("/w", "/v"),
        ("target=/c x", "target=/d x"),
        ("type=cache,", "type=cache,sharing=locked,"),
        ("RUN --mount", "RUN --network=none --mount"),
        ("body", "bodY"),
        ("644", "600"),
        ("USER u", "USER u\nSHELL [\"bash\", \"-c\"]"),
    ];
    for (from, to) in relevant {
        let changed = TEXT.replacen(from, to, 1);
        assert_ne!(changed, TEXT, "{from}");
        assert_ne!(original, key(&changed, &options()), "{from} -> {to}");
    }
    let irrelevant = [
        ("CMD y", "CMD n"),
        ("l=1", "l=2"),
        ("CMD z", "CMD q"),
        ("FROM a\n", "# comment\nFROM a\n"),
        ("FROM a", "FROM a AS named"),
        ("CMD z\n", "CMD z\nEXPOSE 80\nSTOPSIGNAL 9\nONBUILD RUN z\nENV LATE=1\nUSER other\nVOLUME /v\n"),
        ("FROM a\n", "FROM a\nEXPOSE 80\nSTOPSIGNAL 9\nLABEL z=z\nMAINTAINER me\n"),
        ("COPY --chmod", "COPY  --chmod"),
    ];
    for (from, to) in irrelevant {
        let changed = TEXT.replacen(from, to, 1);
        assert_ne!(changed, TEXT, "{from}");
        assert_eq!(original, key(&changed, &options()), "{from} -> {to}");
    }
}

#[test]
fn cache_02_options_are_in_the_key_where_they_should() {
    const TEXT: &str = "FROM a\nARG USED\nRUN x\n";
    let original = key(TEXT, &options());
    let with = |change: fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        key(TEXT, &options)
    };
    let arg = |options: &mut Options, name: &str| options.build_args.push((name.to_owned(), "v".to_owned()));
    assert_ne!(original, with(|options| options.network = Network::None));
    assert_ne!(original, with(|options| options.source_date_epoch = Some(1)));
    assert_ne!(original, with(|options| options.shm_size = Some(1)));
    assert_ne!(original, with(|options| options.platform = Some("linux/arm64".parse().unwrap())));
    assert_eq!(original, with(|options| options.labels.push(("l".to_owned(), "v".to_owned()))));
    assert_eq!(original, with(|options| options.no_cache = NoCache::All));
    for (name, same) in [("USED", false), ("UNUSED", true), ("HTTP_PROXY", true)] {
        let mut options = options();
        arg(&mut options, name);
        assert_eq!(original == key(TEXT, &options), same, "{name}");
    }
}
