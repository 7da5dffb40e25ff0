//! Instructions to operations: which forms there are, and what their operands are.
use super::names::Names;
use super::operation::{Atomic, Barrier, Compare, Copy, Logic, Op, Pred, Shuffle, ShuffleMode, Space, Transfer, Vote};
use super::row::WarpFn;
use super::semantics::{fence, semantics};
use super::{arithmetic, atomic, compare, convert};
use crate::ptx::{Opcode, Ty};

/// The operation of an instruction, if it is one that kernels here contain.
pub(super) fn operation(names: &mut Names, op: &Opcode, operands: &[&str]) -> Option<Op> {
    match (op.base, operands) {
        ("ld", [d, a]) => load(names, op, d, a),
        // Nothing looks at it: the one function that is called is that of a failed `assert`.
        ("st", [a, s]) if op.flags == ["param"] && names.is_argument(a) => {
            Some(Op::Move { dst: 0, src: names.source(s, op.ty()?)?, mask: op.ty()?.mask() })
        }
        ("call", ["__assertfail", _]) => Some(Op::Trap),
        ("st", [a, s]) => store(names, op, s, a),
        ("atom", [d, rest @ ..]) => {
            let old = Some(names.destination(d)?.0);
            atomic_update(names, op, old, rest)
        }
        ("red", operands) => atomic_update(names, op, None, operands),
        ("membar" | "fence", []) => fence(op),
        ("mov", [d, s]) => mov(names, op, d, s),
        // A generic address is the global one; no access takes it.
        ("cvta", [d, s]) if op.only("to global") && op.has("global") && op.types == [Ty::U64] => {
            copy(names, Ty::U64, d, s)
        }
        ("cvt", [d, sources @ ..]) => {
            let (run, arity) = convert::lookup(op, names.destination(d)?.1)?;
            lanes(names, (run, arity), d, sources, |_| *op.types.last().unwrap_or(&Ty::B64))
        }
        ("selp", [d, a, b, p]) => {
            let (ty, dst) = (op.ty()?, names.destination(d)?.0);
            Some(Op::Select { dst, a: names.source(a, ty)?, b: names.source(b, ty)?, pred: names.pred(p)? })
        }
        ("setp", _) => comparison(names, op, operands),
        ("and" | "or" | "xor" | "not", [d, sources @ ..]) if op.types == [Ty::Pred] => logic(names, op, d, sources),
        ("shfl", _) => shuffle(names, op, operands),
        ("vote", [d, p, members]) => {
            let vote = match (op.flags.as_slice(), op.types.as_slice()) {
                (["sync", "ballot"], [Ty::B32]) => Vote::Ballot(names.destination(d)?.0),
                (["sync", "any"], [Ty::Pred]) => Vote::Any(names.destination_pred(d)?),
                _ => return None,
            };
            Some(Op::Vote { vote, pred: names.pred(p)?, members: names.source(members, Ty::B32)? })
        }
        ("bar", _) => barrier(names, op, operands),
        ("nanosleep", [_]) => Some(Op::Yield),
        ("prefetch", [a]) if op.flags == ["global", "L2"] => {
            Some(Op::Prefetch { at: names.address(a, Space::Global)? })
        }
        ("cp", [to, from, bytes]) => {
            let bytes = match (op.flags.as_slice(), *bytes) {
                (["async", "ca" | "cg", "shared", "global"], "16") => 16,
                (["async", "ca", "shared", "global"], "8") => 8,
                (["async", "ca", "shared", "global"], "4") => 4,
                _ => return None,
            };
            let (from, to) = (names.address(from, Space::Global)?, names.address(to, Space::Shared)?);
            Some(Op::Copy(Box::new(Copy { from, to, bytes })))
        }
        ("cp", []) if op.flags == ["async", "wait_all"] => Some(Op::WaitForCopies),
        ("griddepcontrol", []) if op.flags == ["wait"] => Some(Op::WaitForEarlier),
        ("griddepcontrol", []) if op.flags == ["launch_dependents"] => Some(Op::LetLaterBegin),
        ("trap", []) => Some(Op::Trap),
        _ => {
            let ([d, sources @ ..], ty) = (operands, op.ty()?) else { return None };
            let is_amount = |at: usize| matches!(op.base, "shl" | "shr") && at == 1;
            let ty_of = |at| if is_amount(at) { Ty::U32 } else { ty };
            lanes(names, arithmetic::lookup(op)?, d, sources, ty_of)
        }
    }
}

/// A function of the lanes; `ty_of` tells the type of a source operand.
fn lanes(
    names: &mut Names,
    (run, arity): (WarpFn, usize),
    d: &str,
    sources: &[&str],
    ty_of: impl Fn(usize) -> Ty,
) -> Option<Op> {
    if sources.len() != arity {
        return None;
    }
    let mut src = [0; 4];
    for (at, operand) in sources.iter().enumerate() {
        src[at] = names.source(operand, ty_of(at))?;
    }
    Some(Op::Lanes { run, dst: names.destination(d)?.0, src, arity: arity as u8 })
}

fn copy(names: &mut Names, ty: Ty, d: &str, s: &str) -> Option<Op> {
    Some(Op::Move { dst: names.destination(d)?.0, src: names.source(s, ty)?, mask: ty.mask() })
}

fn mov(names: &mut Names, op: &Opcode, d: &str, s: &str) -> Option<Op> {
    let ty = op.ty().filter(|_| op.flags.is_empty())?;
    if ty == Ty::Pred {
        let a = names.pred(s)?;
        return Some(Op::Combine { logic: Logic::And, dst: names.destination_pred(d)?, a, b: a });
    }
    let bits = |parts: usize| (8 * ty.bytes() / parts) as u32;
    if let Some(parts) = vector(s) {
        let part = [Ty::B64, Ty::B32, Ty::B16].into_iter().find(|part| part.bytes() * parts.len() == ty.bytes())?;
        let rows = parts.iter().map(|name| names.source(name, part)).collect::<Option<_>>()?;
        return Some(Op::Pack { dst: names.destination(d)?.0, parts: rows, bits: bits(parts.len()) });
    }
    if let Some(parts) = vector(d) {
        let rows = parts.iter().map(|name| match *name {
            "_" => Some(None),
            name => names.destination(name).map(|found| Some(found.0)),
        });
        let rows = rows.collect::<Option<_>>()?;
        return Some(Op::Unpack { parts: rows, src: names.source(s, ty)?, bits: bits(parts.len()) });
    }
    copy(names, ty, d, s)
}

/// The type of a load's or store's elements, and a register for each.
fn transferred<'d>(op: &Opcode, data: &'d str) -> Option<(Ty, Vec<&'d str>)> {
    // Cache hints change nothing here.
    const KNOWN: &str = "global shared param volatile relaxed acquire release cta gpu sys nc cg cs v2 v4";
    let ty = op.ty().filter(|_| op.types.len() == 1 && op.only(KNOWN))?;
    let registers = vector(data).unwrap_or_else(|| vec![data]);
    let count = [("v2", 2), ("v4", 4)].iter().find(|(flag, _)| op.has(flag)).map_or(1, |(_, count)| *count);
    (registers.len() == count && ty.bytes() * count <= 16).then_some((ty, registers))
}

fn load(names: &mut Names, op: &Opcode, data: &str, at: &str) -> Option<Op> {
    let (ty, registers) = transferred(op, data)?;
    let found = registers.iter().map(|name| names.destination(name)).collect::<Option<Vec<_>>>()?;
    // The register of `_` is wider than any.
    let mask = found.iter().map(|found| found.1.mask()).min()?;
    let rows = found.iter().map(|found| found.0).collect();
    let at = names.address(at, space(op)?)?;
    Some(Op::Load(Box::new(Transfer { at, ty, rows, mask, used: all(ty, registers.len()), semantics: semantics(op) })))
}

fn store(names: &mut Names, op: &Opcode, data: &str, at: &str) -> Option<Op> {
    let (ty, registers) = transferred(op, data)?;
    let rows = registers.iter().map(|name| names.source(name, ty)).collect::<Option<_>>()?;
    let at = names.address(at, space(op).filter(|&space| space != Space::Param)?)?;
    let used = all(ty, registers.len());
    Some(Op::Store(Box::new(Transfer { at, ty, rows, mask: ty.mask(), used, semantics: semantics(op) })))
}

/// A bit for each byte of so many elements.
fn all(ty: Ty, count: usize) -> u64 {
    u64::MAX >> (64 - ty.bytes() * count)
}

fn atomic_update(names: &mut Names, op: &Opcode, old: Option<u32>, operands: &[&str]) -> Option<Op> {
    const PLACE: &str = "global shared relaxed acquire release acq_rel cta gpu sys";
    let ([at, operand], ty) = (operands, op.ty()?) else { return None };
    let mut others = op.flags.iter().filter(|flag| !PLACE.split(' ').any(|known| known == **flag));
    let (Some(name), None) = (others.next(), others.next()) else { return None };
    Some(Op::Atomic(Box::new(Atomic {
        at: names.address(at, space(op)?)?,
        update: atomic::lookup(name, ty)?,
        ty,
        old,
        operand: names.source(operand, ty)?,
        semantics: semantics(op),
    })))
}

fn comparison(names: &mut Names, op: &Opcode, operands: &[&str]) -> Option<Op> {
    let (name, d, a, b, and) = match (op.flags.as_slice(), operands) {
        ([name], [d, a, b]) => (name, d, a, b, None),
        ([name, "and"], [d, a, b, c]) => (name, d, a, b, Some(names.pred(c)?)),
        _ => return None,
    };
    let (accept, ty) = (compare::accepted(name)?, op.ty()?);
    let (run, dst) = (compare::lookup(ty)?, names.destination_pred(d)?);
    let (a, b) = (names.source(a, ty)?, names.source(b, ty)?);
    Some(Op::Compare(Box::new(Compare { run, a, b, accept, and, dst })))
}

fn logic(names: &mut Names, op: &Opcode, d: &str, sources: &[&str]) -> Option<Op> {
    let dst = names.destination_pred(d)?;
    let mut preds = sources.iter().map(|name| names.pred(name));
    let (a, b, last) = (preds.next()??, preds.next(), preds.next());
    let logic = match (op.base, b, last) {
        ("and", Some(_), None) => Logic::And,
        ("or", Some(_), None) => Logic::Or,
        ("xor", Some(_), None) => Logic::Xor,
        ("not", None, None) => {
            let a = Pred { negate: !a.negate, ..a };
            return Some(Op::Combine { logic: Logic::And, dst, a, b: a });
        }
        _ => return None,
    };
    Some(Op::Combine { logic, dst, a, b: b?? })
}

fn shuffle(names: &mut Names, op: &Opcode, operands: &[&str]) -> Option<Op> {
    let &[d, value, lane, clamp, members] = operands else { return None };
    let mode = match op.flags.as_slice() {
        ["sync", "down"] => ShuffleMode::Down,
        ["sync", "bfly"] => ShuffleMode::Butterfly,
        ["sync", "idx"] => ShuffleMode::Index,
        _ => return None,
    };
    let (d, in_range) = match d.split_once('|') {
        Some((d, p)) => (d.trim(), Some(names.destination_pred(p.trim())?)),
        None => (d, None),
    };
    Some(Op::Shuffle(Box::new(Shuffle {
        mode,
        dst: names.destination(d)?.0,
        in_range,
        value: names.source(value, Ty::B32)?,
        lane: names.source(lane, Ty::B32)?,
        clamp: names.source(clamp, Ty::B32)?,
        members: names.source(members, Ty::B32)?,
    })))
}

fn barrier(names: &mut Names, op: &Opcode, operands: &[&str]) -> Option<Op> {
    let (id, threads, any) = match (op.flags.as_slice(), operands) {
        (["warp", "sync"], [members]) => return Some(Op::WarpBarrier { members: names.source(members, Ty::B32)? }),
        (["sync"], [id]) => (id, None, None),
        (["sync"], [id, threads]) => (id, Some(names.source(threads, Ty::U32)?), None),
        (["red", "or"], [d, id, p]) => (id, None, Some((names.pred(p)?, names.destination_pred(d)?))),
        _ => return None,
    };
    Some(Op::Barrier(Box::new(Barrier { id: names.source(id, Ty::U32)?, threads, any })))
}

/// The names in `{a, b}`: two or four, as PTX has vectors.
fn vector(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let names: Vec<&str> = inner.split(',').map(str::trim).collect();
    matches!(names.len(), 2 | 4).then_some(names)
}

fn space(op: &Opcode) -> Option<Space> {
    op.flags.iter().find_map(|flag| match *flag {
        "global" => Some(Space::Global),
        "shared" => Some(Space::Shared),
        "param" => Some(Space::Param),
        _ => None,
    })
}
