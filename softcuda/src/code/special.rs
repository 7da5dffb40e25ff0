//! Special registers.
use crate::device::WARP;

/// What special registers tell.
pub(crate) struct Surroundings {
    pub(crate) block: [u32; 3],
    pub(crate) grid: [u32; 3],
    pub(crate) ctaid: [u32; 3],
    pub(crate) warp: u32,
}

impl Surroundings {
    /// `%tid` of a lane.
    fn tid(&self, lane: u32) -> [u32; 3] {
        let ([x, y, _], thread) = (self.block, self.warp * WARP + lane);
        [thread % x, thread / x % y, thread / (x * y)]
    }
}

/// The value of a special register in a lane, known before the kernel runs.
pub(crate) type Special = fn(&Surroundings, u32) -> u32;

/// The register of that name.
pub(super) fn lookup(name: &str) -> Option<Special> {
    Some(match name {
        "%tid.x" => |at, lane| at.tid(lane)[0],
        "%tid.y" => |at, lane| at.tid(lane)[1],
        "%tid.z" => |at, lane| at.tid(lane)[2],
        "%ntid.x" => |at, _| at.block[0],
        "%ntid.y" => |at, _| at.block[1],
        "%ntid.z" => |at, _| at.block[2],
        "%ctaid.x" => |at, _| at.ctaid[0],
        "%ctaid.y" => |at, _| at.ctaid[1],
        "%ctaid.z" => |at, _| at.ctaid[2],
        "%nctaid.x" => |at, _| at.grid[0],
        "%nctaid.y" => |at, _| at.grid[1],
        "WARP_SZ" => |_, _| WARP,
        "%nctaid.z" => |at, _| at.grid[2],
        _ => return None,
    })
}
