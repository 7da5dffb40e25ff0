//! The order in which the parts of a diverged warp run.
//!
//! Lanes that are behind in this order run first, so that a join is reached by all who can reach it before anyone
//! goes on, as on hardware. Text order will not do: compilers place rare blocks anywhere.

/// The rank of every block of a control-flow graph: Bourdoncle's weak topological order, in which a block comes after
/// its predecessors and a loop is contiguous. Block 0 is the entry.
pub(super) fn ranks(successors: &[Vec<usize>]) -> Vec<u32> {
    let mut order = Order { successors, number: vec![0; successors.len()], last: 0, stack: Vec::new() };
    // Lists are built back to front.
    let mut reversed = Vec::new();
    if !successors.is_empty() {
        order.visit(0, &mut reversed);
    }
    let mut ranks = vec![u32::MAX; successors.len()];
    for (rank, &block) in reversed.iter().rev().enumerate() {
        ranks[block] = rank as u32;
    }
    ranks
}

struct Order<'a> {
    successors: &'a [Vec<usize>],
    /// Depth-first numbers; 0 is not visited, `u32::MAX` is placed.
    number: Vec<u32>,
    last: u32,
    stack: Vec<usize>,
}

impl Order<'_> {
    fn visit(&mut self, block: usize, reversed: &mut Vec<usize>) -> u32 {
        self.stack.push(block);
        self.last += 1;
        self.number[block] = self.last;
        let mut head = self.last;
        let mut in_loop = false;
        for &next in &self.successors[block] {
            let least = if self.number[next] == 0 { self.visit(next, reversed) } else { self.number[next] };
            if least <= head {
                head = least;
                in_loop = true;
            }
        }
        if head == self.number[block] {
            self.number[block] = u32::MAX;
            while let Some(top) = self.stack.pop().filter(|&top| top != block) {
                self.number[top] = 0;
            }
            if in_loop {
                let mut component = Vec::new();
                for &next in &self.successors[block] {
                    if self.number[next] == 0 {
                        self.visit(next, &mut component);
                    }
                }
                reversed.extend(component);
            }
            reversed.push(block);
        }
        head
    }
}
