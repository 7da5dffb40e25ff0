//! Declarations of variables, and what module variables hold at first.
use super::ty::Ty;
use crate::fault::Fault;

/// A module-scope variable in global memory.
#[derive(Clone, Debug)]
pub struct Global {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Contents; zero where nothing was given.
    pub init: Vec<u8>,
}

/// A declared variable of any space.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    ty: Ty,
    pub(crate) size: usize,
    pub(crate) align: usize,
    pub(crate) external: bool,
}

impl Variable {
    /// `.visible .global .align 4 .b8 name[24]` and its kin.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (declaration, extents) = text.split_once('[').map_or((text, ""), |(left, right)| (left, right));
        let mut ty = None;
        let mut align = None;
        let mut name = None;
        let mut external = false;
        let mut before = "";
        for word in declaration.split_whitespace() {
            match word.strip_prefix('.') {
                _ if before == ".align" => align = align.or(word.parse().ok()),
                Some("extern") => external = true,
                Some(ty_name) => ty = ty.or(Ty::parse(ty_name)),
                None => name = Some(word),
            }
            before = word;
        }
        let mut count = 1;
        for extent in extents.split('[').filter(|_| text.contains('[')) {
            let extent = extent.trim().trim_end_matches(']').trim();
            count *= if extent.is_empty() { 0 } else { extent.parse::<usize>().ok()? };
        }
        let ty = ty?;
        let size = ty.bytes() * count;
        Some(Self { name: name?.to_owned(), ty, size, align: align.unwrap_or(ty.bytes()), external })
    }

    /// The module variable that begins with the numbers of `{1, 2}`, or 0.
    pub(super) fn initialised(self, text: &str) -> Result<Global, Fault> {
        let Variable { name, ty, size, align, .. } = self;
        let mut init = vec![0; size];
        let items = text.trim_matches(['{', '}', ' ', '\n']).split(',').map(str::trim);
        for (index, item) in items.filter(|item| !item.is_empty()).enumerate() {
            let bad = || Fault::bad_module(format!("initialiser {item} of {name}"));
            let at = index * ty.bytes();
            let place = init.get_mut(at..at + ty.bytes()).ok_or_else(bad)?;
            place.copy_from_slice(&ty.literal(item).ok_or_else(bad)?.to_le_bytes()[..ty.bytes()]);
        }
        Ok(Global { name, size, align, init })
    }
}
