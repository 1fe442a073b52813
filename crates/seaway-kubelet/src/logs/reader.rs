//! Reading a container's log: the whole, the tail, what comes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::format::parse;
use super::writer::{LiveLog, attempt_of, put_aside};

/// What a reader wants of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogQuery {
    pub follow: bool,
    pub timestamps: bool,
    pub tail: Option<usize>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
}

/// Bytes handed on at a time.
const CHUNK: usize = 64 * 1024;

/// The log file of the last run in `dir`, or of the one before it.
pub(crate) fn find(dir: &Path, previous: bool) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    let mut attempts: Vec<i32> = entries.flatten().filter_map(|entry| attempt_of(&entry.path())).collect();
    attempts.sort_unstable();
    attempts.dedup();
    let attempt = attempts.iter().rev().nth(usize::from(previous))?;
    Some(dir.join(format!("{attempt}.log")))
}

/// What of a line the reader gets to see.
struct Filter {
    query: LogQuery,
    left: u64,
    /// The line continues one whose time was shown already.
    continued: bool,
}

impl Filter {
    fn new(query: LogQuery) -> Self {
        let left = query.limit_bytes.unwrap_or(u64::MAX);
        Self { query, left, continued: false }
    }

    /// Appends `raw`, a line without its newline, as the reader wants it; false when the limit is reached.
    fn add(&mut self, raw: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = parse(raw) else { return true };
        let too_old = |since: &Timestamp| line.at().is_some_and(|at| at < *since);
        if self.query.since.as_ref().is_some_and(too_old) {
            return true;
        }
        let start = out.len();
        if self.query.timestamps && !self.continued {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.continued = line.partial;
        let added = (out.len() - start) as u64;
        if added >= self.left {
            out.truncate(start + usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left = 0;
            return false;
        }
        self.left -= added;
        true
    }
}

/// Sends the log at `path` to `to`, and with `follow` what `live` gets until it ends or the reader is gone.
pub(crate) async fn send(
    path: PathBuf,
    live: Option<Arc<LiveLog>>,
    query: LogQuery,
    to: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut filter = Filter::new(query.clone());
    // Taken first: what is written from here on is found by following.
    let mut progress = live.as_ref().map(|live| live.progress.subscribe());
    let mut rest = Rest::default();
    let mut file = match read_history(&path, &query, &mut filter, &mut rest, &to).await? {
        Some(file) => file,
        None => return Ok(()),
    };
    let Some(progress) = progress.as_mut().filter(|_| query.follow) else { return Ok(()) };
    loop {
        let ended = progress.borrow_and_update().ended;
        if !drain(&mut file, &mut rest, &mut filter, &to).await? {
            return Ok(());
        }
        let newer = newer(&path, &file)?;
        if !newer.is_empty() {
            for part in newer {
                file = part;
                if !drain(&mut file, &mut rest, &mut filter, &to).await? {
                    return Ok(());
                }
            }
            continue;
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return Ok(()) },
            () = to.closed() => return Ok(()),
        }
    }
}

/// What was begun after `file`, which may have been put aside meanwhile, or given up for later parts.
fn newer(path: &Path, file: &File) -> io::Result<Vec<File>> {
    let Some((there, aside)) = parts(path)? else { return Ok(Vec::new()) };
    if is_same(&there, file)? {
        return Ok(Vec::new());
    }
    let between = match aside {
        Some(aside) if !is_same(&aside, file)? => Some(aside),
        _ => None,
    };
    Ok(between.into_iter().chain([there]).collect())
}

/// The file that is written to and the part put aside before it; nothing where the log is gone.
fn parts(path: &Path) -> io::Result<Option<(File, Option<File>)>> {
    // In this order: between the two, what was the first may become the second, but nothing is left out.
    let Some(there) = open(path)? else { return Ok(None) };
    let aside = match open(&put_aside(path))? {
        Some(aside) if !is_same(&aside, &there)? => Some(aside),
        _ => None,
    };
    Ok(Some((there, aside)))
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    Ok(one.metadata()?.ino() == other.metadata()?.ino())
}

/// The last words in a log (or its last 64 KiB), as kubelet takes them for a termination message: 80 lines and 2 KiB at the most.
pub(crate) fn last_words(log: &[u8]) -> Vec<u8> {
    const LINES: usize = 80;
    const BYTES: usize = 2048;
    let lines: Vec<_> = log.split(|&byte| byte == b'\n').filter_map(parse).collect();
    let mut text = Vec::new();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
    }
    text.split_off(text.len().saturating_sub(BYTES))
}

/// A line that is not complete yet.
#[derive(Default)]
struct Rest(Vec<u8>);

/// Sends what `file` has more; false when the reader has enough.
async fn drain(
    file: &mut File,
    rest: &mut Rest,
    filter: &mut Filter,
    to: &mpsc::Sender<Bytes>,
) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = file.read(&mut chunk)?;
        if length == 0 {
            return Ok(true);
        }
        let mut out = Vec::new();
        let mut more = true;
        for piece in chunk[..length].split_inclusive(|&byte| byte == b'\n') {
            rest.0.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                rest.0.pop();
                more = filter.add(&rest.0, &mut out);
                rest.0.clear();
            }
            if !more {
                break;
            }
        }
        if !out.is_empty() && to.send(out.into()).await.is_err() || !more {
            return Ok(false);
        }
    }
}

/// Sends what is there, from the part put aside on; the open file afterwards, or nothing when the reader has enough.
async fn read_history(
    path: &Path,
    query: &LogQuery,
    filter: &mut Filter,
    rest: &mut Rest,
    to: &mpsc::Sender<Bytes>,
) -> io::Result<Option<File>> {
    let Some((mut file, aside)) = parts(path)? else { return Ok(None) };
    let Some(tail) = query.tail else {
        if let Some(mut old) = aside
            && !drain(&mut old, rest, filter, to).await?
        {
            return Ok(None);
        }
        let more = drain(&mut file, rest, filter, to).await?;
        return Ok(more.then_some(file));
    };
    let mut last: VecDeque<Vec<u8>> = VecDeque::new();
    if let Some(old) = aside {
        keep_last(&mut BufReader::new(old), tail, &mut last, rest)?;
    }
    let mut reader = BufReader::new(file);
    keep_last(&mut reader, tail, &mut last, rest)?;
    let mut out = Vec::new();
    let more = last.iter().all(|line| filter.add(line, &mut out));
    let open = out.is_empty() || to.send(out.into()).await.is_ok();
    Ok((more && open).then(|| reader.into_inner()))
}

/// Reads to the end, keeping the last `tail` lines; a line without an end goes to `rest`.
fn keep_last(
    reader: &mut BufReader<File>,
    tail: usize,
    last: &mut VecDeque<Vec<u8>>,
    rest: &mut Rest,
) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.pop_if(|byte| *byte == b'\n').is_none() {
            rest.0 = line;
            return Ok(());
        }
        last.push_back(line);
        if last.len() > tail {
            last.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::LogWriter;
    use super::*;

    const LINES: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n2026-01-01T00:00:02.000000000Z stderr P tw\n2026-01-01T00:00:02.000000000Z stderr F o\n2026-01-01T00:00:03.000000000Z stdout F three\n";

    async fn read(path: PathBuf, query: LogQuery) -> String {
        let (to, mut from) = mpsc::channel(16);
        let reading = tokio::spawn(send(path, None, query, to));
        let mut all = Vec::new();
        while let Some(chunk) = from.recv().await {
            all.extend_from_slice(&chunk);
        }
        reading.await.unwrap().unwrap();
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn queries_choose_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LINES).unwrap();
        let all = LogQuery::default();
        for (query, expected) in [
            (all.clone(), "one\ntwo\nthree\n"),
            (LogQuery { tail: Some(1), ..all.clone() }, "three\n"),
            (LogQuery { tail: Some(0), ..all.clone() }, ""),
            (LogQuery { tail: Some(9), ..all.clone() }, "one\ntwo\nthree\n"),
            (LogQuery { since: "2026-01-01T00:00:02Z".parse().ok(), ..all.clone() }, "two\nthree\n"),
            (LogQuery { limit_bytes: Some(5), ..all.clone() }, "one\nt"),
            (
                LogQuery { timestamps: true, tail: Some(3), ..all.clone() },
                "2026-01-01T00:00:02.000000000Z two\n2026-01-01T00:00:03.000000000Z three\n",
            ),
        ] {
            assert_eq!(read(path.clone(), query.clone()).await, expected, "{query:?}");
        }
    }

    #[tokio::test]
    async fn a_follower_sees_everything_across_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::create(dir.path(), 0).unwrap();
        let live = writer.live();
        let (to, mut from) = mpsc::channel(4);
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let reading = tokio::spawn(send(live.path.clone(), Some(live), query, to));
        let writing = tokio::spawn(async move {
            for number in 0..30_000 {
                writer
                    .append(
                        format!("2026-01-01T00:00:01Z stdout F {number} {}\n", "x".repeat(600)).as_bytes(),
                    )
                    .unwrap();
                if number % 100 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut all = Vec::new();
        while let Some(chunk) = from.recv().await {
            all.extend_from_slice(&chunk);
        }
        reading.await.unwrap().unwrap();
        writing.await.unwrap();
        let numbers: Vec<u32> = String::from_utf8(all)
            .unwrap()
            .lines()
            .map(|line| line.split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(numbers.iter().copied().eq(0..30_000), "{} lines", numbers.len());
    }

    #[tokio::test]
    async fn what_is_put_aside_while_it_is_read_comes_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let part = |text: &str| std::fs::write(&path, text).unwrap();
        let put_aside_now = || std::fs::rename(&path, put_aside(&path)).unwrap();
        let contents = |mut file: File| {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            text
        };
        let newer = |file: &File| newer(&path, file).unwrap().into_iter().map(contents).collect::<Vec<_>>();
        part("one");
        let one = File::open(&path).unwrap();
        assert_eq!(newer(&one), Vec::<String>::new());
        put_aside_now();
        part("two");
        assert_eq!(newer(&one), ["two"]);
        put_aside_now();
        part("three");
        assert_eq!(newer(&one), ["two", "three"]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(newer(&one), Vec::<String>::new());
    }

    #[test]
    fn the_last_words_of_a_log() {
        assert_eq!(last_words(LINES.as_bytes()), b"one\ntwo\nthree\n");
        let many: String = (0..200).map(|n| format!("2026-01-01T00:00:01Z stdout F {n}\n")).collect();
        assert!(last_words(many.as_bytes()).starts_with(b"120\n"));
        let long = format!("2026-01-01T00:00:01Z stdout F {}\n", "x".repeat(5000));
        assert_eq!(last_words(long.as_bytes()).len(), 2048);
    }

    #[test]
    fn runs_are_found_by_number() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path(), false), None);
        for name in ["2.log", "10.log", "10.log.1", "notes"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(find(dir.path(), false), Some(dir.path().join("10.log")));
        assert_eq!(find(dir.path(), true), Some(dir.path().join("2.log")));
    }
}
