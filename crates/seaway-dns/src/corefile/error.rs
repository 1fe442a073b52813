//! What is wrong with a Corefile, and where.

use std::fmt;

use miette::{Diagnostic, LabeledSpan, SourceCode};
use seaway_model::nearest;

use super::{Span, Word};

/// An error in a Corefile, at a word of it.
#[derive(Clone, PartialEq, Eq)]
pub struct CorefileError {
    message: String,
    help: Option<String>,
    span: Box<Span>,
}

impl CorefileError {
    /// The error `message` at `span`.
    pub fn new(span: &Span, message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, span: Box::new(span.clone()) }
    }

    /// The error `message` at `word`.
    pub(crate) fn at(word: &Word, message: impl Into<String>) -> Self {
        Self::new(&word.span, message)
    }

    /// Adds what to write in its place.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The name `word` is none of `known`, which are names of `what`.
    pub(crate) fn unknown<'a>(
        word: &Word,
        what: &str,
        known: impl IntoIterator<Item = &'a str> + Clone,
    ) -> Self {
        let list = known.clone().into_iter().collect::<Vec<_>>().join(", ");
        let help = match nearest(&word.text, known) {
            Some(name) => format!("did you mean `{name}`? Accepted: {list}"),
            None if list.is_empty() => "none is accepted here".to_owned(),
            None => format!("accepted: {list}"),
        };
        Self::at(word, format!("unknown {what} `{}`", word.text)).help(help)
    }

    /// Where it stands.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error with the line of the file, and a mark under the word.
    pub fn render(&self) -> String {
        let Span { file, line, column, length, .. } = &*self.span;
        let text = file.text.lines().nth(line - 1).unwrap_or_default();
        let shown = text.replace('\t', " ");
        let width = text.chars().count().saturating_sub(column - 1).clamp(1, (*length).max(1));
        let margin = line.to_string().len();
        format!(
            "{self}\n{:margin$} |\n{line} | {shown}\n{:margin$} | {:indent$}{}",
            "",
            "",
            "",
            "^".repeat(width),
            indent = column - 1,
        )
    }
}

impl fmt::Display for CorefileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.span.file.name, self.span.line, self.span.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for CorefileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for CorefileError {}

impl Diagnostic for CorefileError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.span.file.text)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new(Some(self.message.clone()), self.span.offset, self.span.length);
        Some(Box::new(std::iter::once(label)))
    }
}
