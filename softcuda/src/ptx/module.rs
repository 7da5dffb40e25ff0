//! A module: its kernels, and what a launch of one needs.
use std::collections::HashSet;
use std::ops::Range;

use super::statement::strip_comments;
use super::variable::{Global, Variable};
use crate::fault::Fault;

/// What all parameters of a kernel may take, from PTX 8.1 on.
const MOST_PARAM_BYTES: usize = 32_764;
/// More than an SM of any device has.
const MOST_SHARED_BYTES: usize = 1 << 24;

/// A kernel parameter's place in the parameter buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Bytes from the start of the buffer.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
}

/// A `.entry` and what its launch needs.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The name it is looked up by.
    pub name: String,
    /// In order of declaration.
    pub params: Vec<Param>,
    /// Size of the parameter buffer.
    pub param_bytes: usize,
    /// Shared memory of the variables that the kernel names.
    pub static_shared_bytes: usize,
    /// Threads of a block by `.maxntid` or `.reqntid`.
    pub max_threads: Option<u32>,
    /// Blocks of so many threads that an SM shall hold, by `.minnctapersm`.
    pub min_blocks: Option<u32>,
    /// Names of the parameters.
    pub(crate) param_names: Vec<String>,
    /// The text between its braces.
    pub(crate) body: Range<usize>,
}

/// A parsed module.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// The PTX ISA that it is written in, by `.version`, major and minor.
    pub version: (u32, u32),
    /// The number of `.target sm_…`.
    pub target: u32,
    /// Variables in global memory.
    pub globals: Vec<Global>,
    kernels: Vec<Kernel>,
    shared: Vec<Variable>,
    source: String,
}

impl Module {
    /// Parses PTX text. Instructions are looked at only when a kernel that holds them is launched.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let mut module = Self { source: strip_comments(text), ..Self::default() };
        let source = module.source.clone();
        let mut at = 0;
        while let Some(skip) = source[at..].find(|c: char| !c.is_whitespace()) {
            at += skip;
            let rest = &source[at..];
            let line = rest.lines().next().unwrap_or_default();
            if let Some(target) = line.strip_prefix(".target") {
                let digits: String =
                    target.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
                module.target = digits.parse().map_err(|_| Fault::bad_module(line))?;
                at += line.len();
            } else if let Some(version) = line.strip_prefix(".version") {
                let parts = version.trim().split_once('.');
                let numbers = parts.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
                module.version = numbers.ok_or_else(|| Fault::bad_module(line))?;
                at += line.len();
            } else if line.starts_with(".address_size") {
                at += line.len();
            } else {
                at += module.item(&source, at)?;
            }
        }
        if module.target == 0 {
            return Err(Fault::bad_module("no .target"));
        }
        module.measure()?;
        Ok(module)
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// All kernels, in order of definition.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// One variable, function or section; gives its length.
    fn item(&mut self, source: &str, at: usize) -> Result<usize, Fault> {
        let rest = &source[at..];
        let end = rest.find([';', '{']).ok_or_else(|| Fault::bad_module(rest.lines().next().unwrap_or_default()))?;
        let head = &rest[..end];
        let opens = rest[end..].starts_with('{');
        let names = |what: &str| head.split_whitespace().any(|word| word == what);
        // A function that is no kernel is passed over: who calls it stops there.
        if head.starts_with(".section") || names(".func") || names(".entry") || !opens && head.starts_with(".pragma") {
            let close = if opens { closing_brace(rest, end)? } else { end };
            if names(".entry") && opens {
                self.kernels.push(Kernel::parse(head, at + end + 1..at + close)?);
            }
            return Ok(close + 1);
        }
        let length = rest.find(';').ok_or_else(|| Fault::bad_module(head))?;
        let (declaration, init) = match rest[..length].split_once('=') {
            Some((declaration, init)) => (declaration.trim(), init.trim()),
            None => (rest[..length].trim(), ""),
        };
        let variable = Variable::parse(declaration).ok_or_else(|| Fault::bad_module(declaration))?;
        if declaration.split_whitespace().any(|word| word == ".shared") {
            self.shared.push(variable);
        } else if declaration.split_whitespace().any(|word| word == ".global") && !variable.external {
            self.globals.push(variable.initialised(init)?);
        } else {
            return Err(Fault::bad_module(declaration));
        }
        Ok(length + 1)
    }

    /// Shared bytes of each kernel: those of its own variables, and of the module's that it names.
    fn measure(&mut self) -> Result<(), Fault> {
        for kernel in &mut self.kernels {
            let body = &self.source[kernel.body.clone()];
            let words: HashSet<&str> =
                body.split(|c: char| !(c.is_ascii_alphanumeric() || "_$%".contains(c))).collect();
            let mut shared: Vec<Variable> =
                self.shared.iter().filter(|variable| words.contains(variable.name.as_str())).cloned().collect();
            let lines = body.lines().map(str::trim).filter(|line| line.starts_with(".shared"));
            shared.extend(lines.filter_map(|line| Variable::parse(line.trim_end_matches(';'))));
            kernel.static_shared_bytes = shared
                .iter()
                .filter(|variable| !variable.external)
                .fold(0, |end: usize, variable| end.next_multiple_of(variable.align) + variable.size);
            if kernel.static_shared_bytes > MOST_SHARED_BYTES {
                let bytes = kernel.static_shared_bytes;
                return Err(Fault::bad_module(format!("{bytes} bytes of shared variables in {}", kernel.name)));
            }
        }
        Ok(())
    }

    /// The module's shared variable of that name.
    pub(crate) fn shared(&self, name: &str) -> Option<&Variable> {
        self.shared.iter().find(|variable| variable.name == name)
    }

    /// The whole text.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// A piece of the text.
    pub(crate) fn text(&self, span: &Range<usize>) -> &str {
        &self.source[span.clone()]
    }

    /// The line of a position, from 1.
    pub(crate) fn line(&self, at: usize) -> u32 {
        1 + self.source[..at].bytes().filter(|&c| c == b'\n').count() as u32
    }
}

impl Kernel {
    /// `.visible .entry name(.param .u64 p)` and what follows; its body is at `body`.
    fn parse(head: &str, body: Range<usize>) -> Result<Self, Fault> {
        let bad = || Fault::bad_module(head);
        let (_, after) = head.split_once(".entry").ok_or_else(bad)?;
        let (name, after) = after.split_once('(').unwrap_or((after, ")"));
        let (params, directives) = after.split_once(')').ok_or_else(bad)?;
        let name = name.split_whitespace().next().ok_or_else(bad)?.to_owned();
        let items = params.split(',').map(str::trim).filter(|item| !item.is_empty());
        let variables = items.map(|item| Variable::parse(item).ok_or_else(|| Fault::bad_module(item)));
        let variables: Vec<Variable> = variables.collect::<Result<_, _>>()?;
        let mut param_bytes = 0;
        let layout = variables.iter().map(|param| {
            let offset = usize::next_multiple_of(param_bytes, param.align);
            param_bytes = offset + param.size;
            Param { offset, size: param.size, align: param.align }
        });
        let params = layout.collect();
        if param_bytes > MOST_PARAM_BYTES {
            return Err(Fault::bad_module(format!("{param_bytes} bytes of parameters: {head}")));
        }
        Ok(Self {
            params,
            param_names: variables.into_iter().map(|param| param.name).collect(),
            name,
            param_bytes,
            static_shared_bytes: 0,
            max_threads: product_of(directives, ".maxntid").or_else(|| product_of(directives, ".reqntid")),
            min_blocks: product_of(directives, ".minnctapersm"),
            body,
        })
    }
}

/// The product of the numbers that follow a directive.
fn product_of(directives: &str, directive: &str) -> Option<u32> {
    let after = directives.split_once(directive)?.1;
    let numbers = after.split('.').next()?.split(',').map(|number| number.trim().parse::<u32>());
    numbers.map_while(Result::ok).reduce(u32::saturating_mul)
}

fn closing_brace(text: &str, open: usize) -> Result<usize, Fault> {
    let mut depth = 0;
    for (at, c) in text[open..].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return Ok(open + at);
        }
    }
    Err(Fault::bad_module("a brace is not closed"))
}
