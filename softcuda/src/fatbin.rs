//! Reads what nvcc puts into a fat binary: the PTX that softcuda runs, and from the SASS beside it
//! how many registers a thread of each kernel takes.
//!
//! Layout (little-endian): a header of magic, version, its own size and the size of what follows;
//! then entries, each with a header (kind, its own size, payload size, compressed size,
//! architecture, flags) and its payload.

use std::collections::BTreeMap;

/// The first word of a fat binary.
pub const MAGIC: u32 = 0xba55_ed50;
/// Bytes of the header that tells how long the whole is.
pub const HEADER: usize = 16;

const PTX: u16 = 1;
const ELF: u16 = 2;
const LEAST_ENTRY: usize = 64;
/// More is taken for a damaged header.
const MOST: usize = 1 << 30;
/// LZ4 and zstd.
const COMPRESSED: u64 = 0x2000 | 0x8000;

/// What softcuda uses of an image.
#[derive(Debug, Default, PartialEq)]
pub struct Contents {
    /// The text that runs.
    pub ptx: String,
    /// Registers a thread, by kernel, in the SASS of the wanted architecture; empty where there is
    /// none.
    pub registers: BTreeMap<String, u32>,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn slice(&self, at: usize, length: usize) -> Result<&'a [u8], String> {
        let end = at.checked_add(length).filter(|&end| end <= self.0.len());
        let end = end.ok_or_else(|| format!("{length} bytes at offset {at} of an image of {}", self.0.len()))?;
        Ok(&self.0[at..end])
    }

    fn number<const N: usize>(&self, at: usize) -> Result<u64, String> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.slice(at, N)?);
        Ok(u64::from_le_bytes(wide))
    }

    fn size(&self, at: usize) -> Result<usize, String> {
        self.number::<8>(at)?.try_into().map_err(|_| format!("the size at offset {at} is too large"))
    }

    fn from(&self, at: usize) -> Result<&'a [u8], String> {
        self.0.get(at..).ok_or_else(|| format!("a name at offset {at} of {}", self.0.len()))
    }

    fn name(&self, at: usize) -> Result<&'a [u8], String> {
        Ok(self.from(at)?.split(|&byte| byte == 0).next().unwrap_or_default())
    }
}

/// Bytes of a whole fat binary, from its first [`HEADER`] bytes.
pub fn total_size(header: &[u8]) -> Result<usize, String> {
    let header = Bytes(header);
    let (version, own) = (header.number::<2>(4)?, header.number::<2>(6)? as usize);
    if version != 1 || own < HEADER {
        return Err(format!("a fat binary of version {version} with a header of {own} bytes"));
    }
    let size = own.saturating_add(header.size(8)?);
    if size > MOST { Err(format!("a fat binary of {size} bytes")) } else { Ok(size) }
}

/// Finds the PTX for the highest architecture up to `capability`, and the register counts of that
/// capability's SASS.
pub fn read(image: &[u8], capability: u32) -> Result<Contents, String> {
    let bytes = Bytes(image);
    let mut best: Option<(u32, &[u8])> = None;
    let mut registers = BTreeMap::new();
    let mut compressed = false;
    let mut at = bytes.number::<2>(6)? as usize;
    while at < image.len() {
        let (kind, own, size) =
            (bytes.number::<2>(at)? as u16, bytes.number::<4>(at + 4)? as usize, bytes.size(at + 8)?);
        if own < LEAST_ENTRY {
            return Err(format!("an entry at offset {at} with a header of {own} bytes"));
        }
        let (arch, flags) = (bytes.number::<4>(at + 28)? as u32, bytes.number::<8>(at + 40)?);
        let start = at.checked_add(own).ok_or("an entry's header size overflows")?;
        let payload = bytes.slice(start, size)?;
        let is_compressed = flags & COMPRESSED != 0;
        match kind {
            PTX if is_compressed => compressed = true,
            PTX if arch <= capability && best.is_none_or(|(other, _)| other < arch) => best = Some((arch, payload)),
            ELF if arch == capability && !is_compressed => registers = register_counts(payload)?,
            _ => {}
        }
        at = start + size;
    }
    let Some((_, ptx)) = best else {
        return Err(if compressed {
            "the fat binary's PTX is compressed: build with nvcc --compress-mode=none".into()
        } else {
            format!("the fat binary has no PTX for compute capability {capability} or lower")
        });
    };
    let end = ptx.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let ptx = std::str::from_utf8(&ptx[..end]).map_err(|error| format!("the PTX is not text: {error}"))?;
    Ok(Contents { ptx: ptx.into(), registers })
}

/// Registers a thread, by kernel, from a cubin's `.nv.info`.
fn register_counts(elf: &[u8]) -> Result<BTreeMap<String, u32>, String> {
    const SYMBOLS: u64 = 2;
    const SYMBOL: usize = 24;
    /// Attribute 0x2f (register count) in the form 4 (a size, then as many bytes).
    const REGISTER_COUNT: u64 = 0x2f04;
    let bytes = Bytes(elf);
    let (table, entry) = (bytes.size(0x28)?, bytes.number::<2>(0x3a)? as usize);
    let (count, names) = (bytes.number::<2>(0x3c)? as usize, bytes.number::<2>(0x3e)? as usize);
    let header = |index: usize| bytes.slice(table.saturating_add(index * entry), 64).map(Bytes);
    let body = |index: usize| {
        let header = header(index)?;
        bytes.slice(header.size(0x18)?, header.size(0x20)?).map(Bytes)
    };
    let (mut symbols, mut info) = (None, None);
    for index in 0..count {
        let header = header(index)?;
        if header.number::<4>(4)? == SYMBOLS {
            symbols = Some((body(index)?, body(header.number::<4>(0x28)? as usize)?));
        } else if body(names)?.from(header.number::<4>(0)? as usize)?.starts_with(b".nv.info\0") {
            info = Some(body(index)?);
        }
    }
    let (Some((symbols, texts)), Some(info)) = (symbols, info) else {
        return Ok(BTreeMap::new());
    };
    let mut counts = BTreeMap::new();
    // In a damaged table names may overlap, and each be as long as all.
    let mut name_bytes = texts.0.len();
    let mut at = 0;
    while at + 4 <= info.0.len() {
        let (form, size) = (info.number::<1>(at)?, info.number::<2>(at + 2)? as usize);
        if info.number::<2>(at)? == REGISTER_COUNT {
            let (symbol, registers) = (info.number::<4>(at + 4)? as usize, info.number::<4>(at + 8)?);
            let name = texts.name(symbols.number::<4>(symbol.saturating_mul(SYMBOL))? as usize)?;
            let left = name_bytes.checked_sub(name.len());
            name_bytes = left.ok_or_else(|| format!("names of more than the {} bytes of all", texts.0.len()))?;
            counts.insert(String::from_utf8_lossy(name).into_owned(), registers as u32);
        }
        at += if form == 4 { 4 + size } else { 4 };
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &[u8] = include_bytes!("../tests/kernels/driver.fatbin");

    #[test]
    fn the_ptx_and_the_register_counts_are_found() {
        let contents = read(IMAGE, 90).expect("nvcc's own image");
        assert_eq!(total_size(IMAGE), Ok(IMAGE.len()));
        assert!(contents.ptx.contains(".visible .entry axpy(") && contents.ptx.ends_with('\n'));
        // As `cuobjdump --dump-resource-usage` says.
        assert_eq!((contents.registers["axpy"], contents.registers["reverse"]), (10, 14));
        assert!(read(IMAGE, 80).expect_err("its PTX is for 90").contains("no PTX for compute capability 80"));
    }

    #[test]
    fn cut_and_damaged_images_are_refused_and_never_read_beyond_their_end() {
        for length in 0..IMAGE.len() {
            // A cut may fall between entries; what is left is then sound.
            let _ = read(&IMAGE[..length], 90);
        }
        let mut damaged = IMAGE.to_vec();
        for at in 0..damaged.len() {
            let byte = std::mem::replace(&mut damaged[at], 0xff);
            let _ = read(&damaged, 90);
            damaged[at] = byte;
        }
        assert!(read(&IMAGE[..100], 90).is_err());
        assert!(total_size(&IMAGE[..8]).is_err());
    }

    /// Every name of a symbol is the rest of the text from its place on, so that together they are
    /// far longer than it.
    #[test]
    fn names_that_overlap_are_refused() {
        const SYMBOLS: usize = 500;
        let mut elf = vec![0u8; 64];
        let mut add = |bytes: &[u8]| {
            elf.extend(bytes);
            (elf.len() - bytes.len()) as u64
        };
        let names = [&b"\0.nv.info\0"[..], &[b'a'; 2 * SYMBOLS], b"\0"].concat();
        let (mut symbols, mut info) = (Vec::new(), Vec::new());
        for symbol in 0..SYMBOLS as u32 {
            symbols.extend((10 + symbol).to_le_bytes());
            symbols.extend([0; 20]);
            info.extend([4, 0x2f, 8, 0]);
            info.extend([symbol.to_le_bytes(), 32u32.to_le_bytes()].concat());
        }
        let places = [&names, &symbols, &info].map(|part| (add(part), part.len() as u64));
        let mut sections = vec![0u8; 3 * 64];
        for (index, ((place, size), (name, kind))) in places.into_iter().zip([(0, 3), (0, 2), (1, 1)]).enumerate() {
            let section = &mut sections[index * 64..][..64];
            section[..4].copy_from_slice(&u32::to_le_bytes(name));
            section[4..8].copy_from_slice(&u32::to_le_bytes(kind));
            section[0x18..0x20].copy_from_slice(&place.to_le_bytes());
            section[0x20..0x28].copy_from_slice(&size.to_le_bytes());
        }
        let table = add(&sections);
        elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        elf[0x3a..0x3e].copy_from_slice(&[64, 0, 3, 0]);
        let read = register_counts(&elf).map(|counts| counts.len());
        let error = read.expect_err("500 names of up to 1,000 bytes in a text of 1,011");
        assert!(error.contains("names of more than"), "{error}");
    }
}
