use std::collections::HashMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;

struct Memory(HashMap<&'static str, &'static str>);

impl Files for Memory {
    fn import(&self, _from: &Path, pattern: &str) -> std::io::Result<Vec<Loaded>> {
        let text = self.0.get(pattern).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(vec![(pattern.into(), (*text).to_owned())])
    }
}

fn read(text: &str) -> Result<Vec<ServerBlock>, CorefileError> {
    let files = HashMap::from([
        ("extra", "log\nwhoami\n"),
        ("self", "import self\n"),
        ("servers", "a.example {\n log\n}\n"),
    ]);
    let env = |name: &str| (name == "PORT").then(|| "1053".to_owned());
    parse("Corefile", text, &env, &Memory(files))
}

/// The blocks in one line: `keys{name arg[property arg;];}`.
fn short(blocks: &[ServerBlock]) -> String {
    fn line(d: &Directive) -> String {
        let mut words = vec![d.name.text.clone()];
        words.extend(d.args.iter().map(|a| a.text.replace('\n', "/")));
        let block: String = d.block.iter().map(line).collect();
        let block = if block.is_empty() { block } else { format!("[{block}]") };
        format!("{}{block};", words.join(" "))
    }
    blocks
        .iter()
        .map(|b| {
            let keys: Vec<&str> = b.keys.iter().map(|k| k.text.as_str()).collect();
            format!("{}{{{}}}", keys.join(" "), b.directives.iter().map(line).collect::<String>())
        })
        .collect()
}

#[test]
fn reads() {
    for (text, expected) in [
        ("", ""),
        ("# nothing\n", ""),
        (".:53 {\n}\n", ".:53{}"),
        (". {\n  errors\n  cache 30\n}\n", ".{errors;cache 30;}"),
        ("a.example b.example:54 {\n log\n}\n", "a.example b.example:54{log;}"),
        ("a.example,\nb.example {\n}\n", "a.example b.example{}"),
        (". {\n health {\n  lameduck 5s\n }\n}\n", ".{health[lameduck 5s;];}"),
        ("a {\n}\nb {\n}", "a{}b{}"),
        (".:{$PORT} {\n x {%PORT%}{$NONE}y {$ {}\n}", ".:1053{x 1053y {$ {};}"),
        (". {\n log . \"a \\\"b\\\" {\" # c\n \"x\n y\" z\n}", ".{log . a \"b\" {;x\n y z;}"),
        ("(s) {\n errors\n}\n. {\n import s\n import s\n log\n}", ".{errors;errors;log;}"),
        ("(s) { errors }\n. {\n import s\n}", ".{errors;}"),
        (". {\n errors\n import extra\n cache\n}", ".{errors;log;whoami;cache;}"),
        ("import servers\nb {\n}", "a.example{log;}b{}"),
        (".:53\nerrors\ncache 30 {\n success 5\n}\n", ".:53{errors;cache 30[success 5;];}"),
        ("\u{feff}. {\r\n errors\r\n}\r\n", ".{errors;}"),
    ] {
        match read(text) {
            Ok(blocks) => assert_eq!(short(&blocks), expected, "{text:?}"),
            Err(error) => panic!("{text:?}: {error}"),
        }
    }
}

#[test]
fn errors_have_a_place() {
    for (text, expected) in [
        (". {\n errors\n", "Corefile:1:3: `{` without its `}`"),
        (". {\n errors }\n", "Corefile:2:9: `}` has to stand on a line of its own"),
        (". { errors\n}\n", "Corefile:1:5: `errors` after `{`"),
        (".:53{\n}\n", "Corefile:1:1: `{` has to stand by itself"),
        ("{\n}\n", "Corefile:1:1: a server block without a name"),
        (". {\n {\n }\n}\n", "Corefile:2:2: `{` without a name"),
        ("}\n", "Corefile:1:1: `}` without its `{`"),
        (". {\n} x\n", "Corefile:2:3: `x` after `}`"),
        (". {\n log \"abc\n}\n", "Corefile:2:6: a quoted text without its closing quote"),
        (". {\n import nowhere\n}\n", "Corefile:2:9: import nowhere: entity not found"),
        (". {\n import\n}\n", "Corefile:2:2: import takes one"),
        ("import self", "self:1:8: imports nest deeper"),
        ("(s)\n", "Corefile:1:1: snippet (s) without a block"),
        ("(s) {\n", "Corefile:1:5: `{` without its `}`"),
        ("(s) {\n}\n(s) {\n}\n", "Corefile:3:1: snippet (s) is there twice"),
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{text:?}: {error}");
    }
}

#[test]
fn an_error_shows_its_line() {
    let error = read(". {\n\tcache 30 }\n}\n").unwrap_err();
    assert_eq!(
        error.render(),
        "Corefile:2:11: `}` has to stand on a line of its own\n  |\n2 |  cache 30 }\n  |           ^"
    );
    let words = CorefileError::unknown(&args::tests::word("cahce"), "plugin", ["cache", "log"]);
    assert_eq!(
        words.to_string(),
        "Corefile:1:1: unknown plugin `cahce` (did you mean `cache`? Accepted: cache, log)"
    );
}

proptest! {
    #[test]
    fn never_panics(text in "(\\PC|[{}\"\\\\#(), \t\n]|import |\\(s\\) |\\{\\$PORT\\}){0,200}") {
        if let Err(error) = read(&text) {
            let _ = (error.render(), error.to_string());
        }
    }

    #[test]
    fn what_is_read_can_be_written_and_read_again(
        blocks in proptest::collection::vec(
            ("[a-z.]{1,9}", proptest::collection::vec(("[a-z]{1,8}", "[^\"\\\\{\u{feff}]{0,9}", "[a-z]{0,4}"), 0..4)), 0..3)
    ) {
        let mut text = String::new();
        for (key, lines) in &blocks {
            text += &format!("{key} {{\n");
            for (name, arg, property) in lines {
                let block = if property.is_empty() { String::new() } else { format!("{{\n{property} 1\n}}") };
                text += &format!("x{name} \"{arg}\" {block}\n");
            }
            text += "}\n";
        }
        let read = read(&text).unwrap();
        prop_assert_eq!(read.len(), blocks.len());
        for (block, (_, lines)) in read.iter().zip(&blocks) {
            prop_assert_eq!(block.directives.len(), lines.len());
            for (directive, (_, arg, property)) in block.directives.iter().zip(lines) {
                prop_assert_eq!(&directive.args[0].text, arg);
                prop_assert_eq!(directive.block.len(), usize::from(!property.is_empty()));
            }
        }
    }
}
