//! Server blocks, snippets and imports.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{CorefileError, Directive, Files, ServerBlock, SourceFile, Word, lexer};

/// How deep blocks and imports may nest.
const MAX_DEPTH: usize = 16;
/// Words of all files together, so that a snippet that imports others many times over can't eat the memory.
const MAX_WORDS: usize = 1_000_000;

/// Reads the Corefile `text`, which is called `name` in errors. `env` looks up environment variables, `files` reads
/// what `import` names.
///
/// # Errors
/// The first word that does not fit.
pub fn parse(
    name: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    files: &dyn Files,
) -> Result<Vec<ServerBlock>, CorefileError> {
    let file = Arc::new(SourceFile { name: name.to_owned(), text: text.to_owned() });
    let words = lexer::words(&file, env)?;
    let mut loader = Loader { env, files, snippets: HashMap::new(), count: words.len() };
    let words = loader.resolve(words, Path::new(name), 0)?;
    Parser { words, at: 0 }.file()
}

/// Takes the snippets out and puts imports in, on words alone.
struct Loader<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    files: &'a dyn Files,
    snippets: HashMap<String, Vec<Word>>,
    count: usize,
}

impl Loader<'_> {
    fn resolve(&mut self, words: Vec<Word>, path: &Path, depth: usize) -> Result<Vec<Word>, CorefileError> {
        let mut out: Vec<Word> = Vec::new();
        let mut nesting = 0usize;
        let mut at = 0;
        while at < words.len() {
            let word = &words[at];
            if word.begins_line && nesting == 0 && is_snippet(word) {
                at = self.define(&words, at)?;
                continue;
            }
            if word.begins_line && is(word, "import") {
                at = self.import(&words, at, path, depth, &mut out)?;
                continue;
            }
            if is(word, "{") {
                nesting += 1;
            } else if is(word, "}") {
                nesting = nesting.saturating_sub(1);
            }
            out.push(word.clone());
            at += 1;
        }
        Ok(out)
    }

    /// `(name) { … }`; returns where it ends.
    fn define(&mut self, words: &[Word], at: usize) -> Result<usize, CorefileError> {
        let word = &words[at];
        if !words.get(at + 1).is_some_and(|w| is(w, "{") && !w.begins_line) {
            return Err(CorefileError::at(word, format!("snippet {} without a block", word.text))
                .help("put `{` after it on the same line"));
        }
        let mut nesting = 0usize;
        for (end, w) in words.iter().enumerate().skip(at + 1) {
            if is(w, "{") {
                nesting += 1;
            } else if is(w, "}") {
                nesting -= 1;
                if nesting == 0 {
                    let name = word.text.trim_matches(['(', ')']).to_owned();
                    if self.snippets.insert(name, words[at + 2..end].to_vec()).is_some() {
                        return Err(CorefileError::at(word, format!("snippet {} is there twice", word.text)));
                    }
                    return Ok(end + 1);
                }
            }
        }
        Err(unclosed(&words[at + 1]))
    }

    /// `import NAME|PATTERN`; returns where it ends.
    fn import(
        &mut self,
        words: &[Word],
        at: usize,
        path: &Path,
        depth: usize,
        out: &mut Vec<Word>,
    ) -> Result<usize, CorefileError> {
        let word = &words[at];
        let line: Vec<&Word> = words[at + 1..].iter().take_while(|w| !w.begins_line).collect();
        let [what] = line[..] else {
            return Err(CorefileError::at(word, "import takes one snippet or file name"));
        };
        if depth == MAX_DEPTH {
            return Err(CorefileError::at(what, format!("imports nest deeper than {MAX_DEPTH}"))
                .help("does it import itself?"));
        }
        if let Some(snippet) = self.snippets.get(&what.text).cloned() {
            self.add(snippet, path, depth, what, out)?;
            return Ok(at + 2);
        }
        let loaded = self.files.import(path, &what.text).map_err(|error| {
            CorefileError::at(what, format!("import {}: {error}", what.text))
                .help("no snippet of that name stands before it, so it is taken for a file")
        })?;
        for (path, text) in loaded {
            let file = Arc::new(SourceFile { name: path.display().to_string(), text });
            let imported = lexer::words(&file, self.env)?;
            self.add(imported, &path, depth, what, out)?;
        }
        Ok(at + 2)
    }

    fn add(
        &mut self,
        mut words: Vec<Word>,
        path: &Path,
        depth: usize,
        what: &Word,
        out: &mut Vec<Word>,
    ) -> Result<(), CorefileError> {
        if let Some(first) = words.first_mut() {
            first.begins_line = true;
        }
        self.count += words.len();
        if self.count > MAX_WORDS {
            return Err(CorefileError::at(what, format!("more than {MAX_WORDS} words with this import")));
        }
        let path: PathBuf = path.to_owned();
        out.extend(self.resolve(words, &path, depth + 1)?);
        Ok(())
    }
}

fn is(word: &Word, text: &str) -> bool {
    !word.quoted && word.text == text
}

fn is_snippet(word: &Word) -> bool {
    !word.quoted && word.text.len() > 2 && word.text.starts_with('(') && word.text.ends_with(')')
}

fn unclosed(brace: &Word) -> CorefileError {
    CorefileError::at(brace, "`{` without its `}`").help("add `}` on a line of its own")
}

struct Parser {
    words: Vec<Word>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Word> {
        self.words.get(self.at)
    }

    /// The next word, if it stands on the line of the one before it.
    fn on_this_line(&self) -> Option<&Word> {
        self.peek().filter(|word| !word.begins_line)
    }

    fn file(mut self) -> Result<Vec<ServerBlock>, CorefileError> {
        let mut blocks = Vec::new();
        while let Some(first) = self.peek().cloned() {
            blocks.push(self.server_block(&first)?);
        }
        Ok(blocks)
    }

    fn server_block(&mut self, first: &Word) -> Result<ServerBlock, CorefileError> {
        let keys = self.keys(first)?;
        let Some(brace) = self.on_this_line().filter(|word| is(word, "{")).cloned() else {
            // A file of one server block may leave the braces out.
            let mut directives = Vec::new();
            while let Some(word) = self.peek() {
                if is(word, "}") {
                    return Err(CorefileError::at(word, "`}` without its `{`"));
                }
                directives.push(self.directive(0)?);
            }
            return Ok(ServerBlock { keys, directives });
        };
        self.at += 1;
        let directives = self.block(&brace, 0)?;
        Ok(ServerBlock { keys, directives })
    }

    /// Names of a block, separated by blanks or commas; after a comma they may go on in the next line.
    fn keys(&mut self, first: &Word) -> Result<Vec<Word>, CorefileError> {
        let mut keys: Vec<Word> = Vec::new();
        let mut goes_on = true;
        while let Some(word) = self.peek() {
            if is(word, "{") || !(goes_on || self.on_this_line().is_some()) {
                break;
            }
            if is(word, "}") {
                return Err(CorefileError::at(word, "`}` without its `{`"));
            }
            let word = word.clone();
            goes_on = word.text.ends_with(',');
            for part in word.text.split(',').filter(|part| !part.is_empty()) {
                keys.push(Word { text: part.to_owned(), ..word.clone() });
            }
            if !word.quoted && word.text.len() > 1 && word.text.ends_with('{') {
                return Err(
                    CorefileError::at(&word, "`{` has to stand by itself").help("put a blank before it")
                );
            }
            self.at += 1;
        }
        if keys.is_empty() {
            return Err(CorefileError::at(first, "a server block without a name")
                .help("write what it serves before it, such as `.:53 {`"));
        }
        Ok(keys)
    }

    /// Lines up to the `}` that belongs to `brace`, which is passed.
    fn block(&mut self, brace: &Word, depth: usize) -> Result<Vec<Directive>, CorefileError> {
        if let Some(word) = self.on_this_line() {
            return Err(CorefileError::at(word, format!("`{}` after `{{` on the same line", word.text))
                .help("begin a new line after `{`"));
        }
        if depth == MAX_DEPTH {
            return Err(CorefileError::at(brace, format!("blocks nest deeper than {MAX_DEPTH}")));
        }
        let mut lines = Vec::new();
        loop {
            match self.peek() {
                None => return Err(unclosed(brace)),
                Some(word) if is(word, "}") => {
                    self.at += 1;
                    if let Some(word) = self.on_this_line() {
                        return Err(CorefileError::at(
                            word,
                            format!("`{}` after `}}` on the same line", word.text),
                        )
                        .help("begin a new line after `}`"));
                    }
                    return Ok(lines);
                }
                Some(_) => lines.push(self.directive(depth)?),
            }
        }
    }

    fn directive(&mut self, depth: usize) -> Result<Directive, CorefileError> {
        let name = self.words[self.at].clone();
        if is(&name, "{") {
            return Err(CorefileError::at(&name, "`{` without a name before it")
                .help("put it at the end of the line that it belongs to"));
        }
        self.at += 1;
        let mut args = Vec::new();
        while let Some(word) = self.on_this_line() {
            let word = word.clone();
            if is(&word, "{") {
                self.at += 1;
                let block = self.block(&word, depth + 1)?;
                return Ok(Directive { name, args, block });
            }
            if is(&word, "}") {
                return Err(CorefileError::at(&word, "`}` has to stand on a line of its own"));
            }
            self.at += 1;
            args.push(word);
        }
        Ok(Directive { name, args, block: Vec::new() })
    }
}
