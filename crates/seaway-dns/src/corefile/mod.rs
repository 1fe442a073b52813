//! The Corefile: CoreDNS's configuration file.
//!
//! [`lexer`] makes words, [`parser`] makes server blocks with their directives, [`address`] reads the blocks' names,
//! and [`args`] helps each plugin to read its own directive. Every word knows where it stands.

pub(crate) mod address;
pub(crate) mod args;
mod error;
mod files;
mod lexer;
mod parser;

use std::sync::Arc;

pub use error::CorefileError;
pub use files::{Disk, Files, Loaded};
pub use parser::parse;

/// A file that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name, as errors show it.
    pub name: String,
    /// Its contents.
    pub text: String,
}

/// Where a word stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The file.
    pub file: Arc<SourceFile>,
    /// Bytes from the file's beginning.
    pub offset: usize,
    /// Bytes that it takes up.
    pub length: usize,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// A word of the file, with quotes removed and environment variables put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The text.
    pub text: String,
    /// Where it stands.
    pub span: Span,
    /// It was in quotes, so that a brace or a comma in it means nothing.
    pub quoted: bool,
    /// It is the first of its line.
    pub begins_line: bool,
}

/// A line of a block: a plugin with its arguments, or a plugin's property; either may have a block of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The first word.
    pub name: Word,
    /// The other words of the line.
    pub args: Vec<Word>,
    /// The lines in braces after it.
    pub block: Vec<Directive>,
}

/// A server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerBlock {
    /// What it serves, such as `.:53`.
    pub keys: Vec<Word>,
    /// Its plugins in the file's order.
    pub directives: Vec<Directive>,
}

#[cfg(test)]
mod tests;
