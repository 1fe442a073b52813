//! Words of a Corefile.
//!
//! Words are separated by white space; `"…"` makes one word of anything, with `\"` for a quote; `#` at the beginning of
//! a word starts a comment. `{$NAME}` and `{%NAME%}` stand for an environment variable, empty where it is not set.

use std::sync::Arc;

use super::{CorefileError, SourceFile, Span, Word};

/// The words of `file`. `env` looks up environment variables.
pub(super) fn words(
    file: &Arc<SourceFile>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Word>, CorefileError> {
    let mut lexer = Lexer { file, at: 0, line: 1, column: 1, any: false };
    let mut words = Vec::new();
    while let Some(mut word) = lexer.next()? {
        word.text = expand(&word.text, env);
        words.push(word);
    }
    Ok(words)
}

struct Lexer<'a> {
    file: &'a Arc<SourceFile>,
    at: usize,
    line: usize,
    column: usize,
    /// There was a word already.
    any: bool,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.file.text[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn skip_blanks(&mut self) {
        while let Some(c) = self.peek() {
            if c == '#' {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.take();
                }
            } else if c.is_whitespace() || (c == '\u{feff}' && self.at == 0) {
                self.take();
            } else {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Option<Word>, CorefileError> {
        let before = self.line;
        self.skip_blanks();
        let begins_line = self.line > before || !self.any;
        self.any = true;
        let mut span = Span {
            file: self.file.clone(),
            offset: self.at,
            length: 1,
            line: self.line,
            column: self.column,
        };
        let Some(first) = self.peek() else { return Ok(None) };
        let quoted = first == '"';
        let text = if quoted {
            match self.quoted() {
                Some(text) => text,
                None => {
                    return Err(CorefileError::new(&span, "a quoted text without its closing quote")
                        .help("add `\"`; a quote inside is written `\\\"`"));
                }
            }
        } else {
            while self.peek().is_some_and(|c| !c.is_whitespace()) {
                self.take();
            }
            self.file.text[span.offset..self.at].to_owned()
        };
        span.length = self.at - span.offset;
        Ok(Some(Word { text, span, quoted, begins_line }))
    }

    fn quoted(&mut self) -> Option<String> {
        self.take();
        let mut text = String::new();
        loop {
            match self.take()? {
                '"' => return Some(text),
                '\\' if self.peek() == Some('"') => {
                    self.take();
                    text.push('"');
                }
                c => text.push(c),
            }
        }
    }
}

/// Puts environment variables in. What they hold is not looked at again.
fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let variable = [("{$", "}"), ("{%", "%}")].into_iter().find_map(|(open, close)| {
            let (name, rest) = from.strip_prefix(open)?.split_once(close)?;
            (!name.is_empty()).then_some((name, rest))
        });
        match variable {
            Some((name, after)) => {
                out.push_str(&env(name).unwrap_or_default());
                rest = after;
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out + rest
}
