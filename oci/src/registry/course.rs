//! How an upload goes on after each thing that can happen to it: whole, in pieces, in smaller ones, or not at all.
//! Decides only; sends nothing and waits for nothing.
//!
//! A blob goes whole first: every registry takes that, and it costs the fewest requests. Pieces are for proxies that
//! limit bodies and for connections that break, since they keep what has arrived.

/// A piece below which splitting further makes no sense.
const SMALLEST: u64 = 64 * 1024;

/// Steps in one upload that may bring it less than half of what they sent. A registry that takes a byte of each piece
/// must not keep us forever.
const MAX_IDLE: u32 = 16;

/// How the bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// All in one PUT.
    Whole,
    /// By PATCH, this many at a time.
    Pieces(u64),
}

/// What is known about pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pieces {
    /// They may work.
    Open,
    /// Nothing else works.
    Needed,
    /// The registry does not take any.
    Refused,
}

/// Whether there is a way on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As the mode says now.
    On,
    /// There is none.
    Nowhere,
}

/// The state of one upload.
#[derive(Debug)]
pub(super) struct Course {
    mode: Mode,
    pieces: Pieces,
    /// Size of the first pieces.
    usual: u64,
    /// What the registry had when the connection last broke.
    broken_at: Option<u64>,
    idle: u32,
}

impl Course {
    /// Starts with the whole blob; pieces, should they be needed, have `usual` bytes.
    pub fn new(usual: u64) -> Self {
        Self { mode: Mode::Whole, pieces: Pieces::Open, usual, broken_at: None, idle: 0 }
    }

    /// Returns how the next bytes travel.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The connection broke with `offset` bytes at the registry, which takes pieces of `least` bytes and more.
    ///
    /// Some proxies that limit bodies reset instead of answering 413, so what broke twice in one place is made
    /// smaller.
    pub fn broken(&mut self, offset: u64, least: u64) {
        let again = self.broken_at.replace(offset) == Some(offset);
        match self.mode {
            Mode::Whole if self.pieces == Pieces::Refused => {}
            Mode::Whole => self.mode = Mode::Pieces(self.usual.max(least).max(1)),
            Mode::Pieces(size) if again && size / 2 >= SMALLEST.max(least) => {
                self.mode = Mode::Pieces(size / 2)
            }
            Mode::Pieces(_) => {}
        }
    }

    /// Something on the way limits bodies to less than what was sent.
    pub fn too_large(&mut self, least: u64) -> Way {
        let size = match self.mode {
            Mode::Whole => self.usual,
            Mode::Pieces(size) => size / 2,
        };
        if self.pieces == Pieces::Refused || size < SMALLEST.max(least) {
            return Way::Nowhere;
        }
        (self.mode, self.pieces) = (Mode::Pieces(size), Pieces::Needed);
        Way::On
    }

    /// The registry takes no pieces (Google's does not); the whole has been tried before, so it is worth another try
    /// unless it was too large.
    pub fn without_pieces(&mut self) -> Way {
        if self.pieces == Pieces::Needed {
            return Way::Nowhere;
        }
        (self.mode, self.pieces) = (Mode::Whole, Pieces::Refused);
        Way::On
    }

    /// A piece has brought the registry from `before` to `after` of `size` bytes.
    pub fn moved(&mut self, before: u64, after: u64, size: u64) -> Way {
        let sent = match self.mode {
            Mode::Whole => size - before.min(size),
            Mode::Pieces(piece) => piece.min(size - before.min(size)),
        };
        if after.saturating_sub(before) < sent.div_ceil(2) {
            self.idle += 1;
        }
        if self.idle > MAX_IDLE { Way::Nowhere } else { Way::On }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_breaks_in_one_place_gets_smaller_down_to_a_limit() {
        let mut course = Course::new(MIB);
        let mut sizes = Vec::new();
        for _ in 0..7 {
            course.broken(0, 0);
            sizes.push(course.mode());
        }
        let expected = [1024, 512, 256, 128, 64, 64, 64].map(|size| Mode::Pieces(size * 1024));
        assert_eq!(sizes, expected);
    }

    #[test]
    fn what_breaks_elsewhere_keeps_its_size() {
        let mut course = Course::new(MIB);
        for offset in [0, 10, 20, 30] {
            course.broken(offset, 0);
            assert_eq!(course.mode(), Mode::Pieces(MIB));
        }
    }

    #[test]
    fn pieces_are_not_smaller_than_the_registry_takes() {
        let mut course = Course::new(MIB);
        course.broken(0, 4 * MIB);
        course.broken(0, 4 * MIB);
        assert_eq!(course.mode(), Mode::Pieces(4 * MIB));
        let mut course = Course::new(MIB);
        assert_eq!(course.too_large(MIB), Way::On);
        assert_eq!(course.too_large(MIB), Way::Nowhere);
    }

    #[test]
    fn a_registry_without_pieces_gets_the_whole_again_unless_that_is_too_large() {
        let mut course = Course::new(MIB);
        course.broken(0, 0);
        assert_eq!(course.without_pieces(), Way::On);
        assert_eq!(course.mode(), Mode::Whole);
        course.broken(0, 0);
        assert_eq!(course.mode(), Mode::Whole);
        assert_eq!(course.too_large(0), Way::Nowhere);
        let mut course = Course::new(MIB);
        course.too_large(0);
        assert_eq!(course.without_pieces(), Way::Nowhere);
    }

    #[test]
    fn an_upload_that_does_not_move_ends() {
        let mut course = Course::new(MIB);
        course.broken(0, 0);
        let steps = (0..1000).take_while(|step| course.moved(*step, step + 1, 100 * MIB) == Way::On).count();
        assert_eq!(steps, 16);
        let mut course = Course::new(MIB);
        course.broken(0, 0);
        assert!((0..1000).all(|step| course.moved(step * MIB, (step + 1) * MIB, 1000 * MIB) == Way::On));
        // The last piece is what is left.
        assert_eq!(course.moved(1000 * MIB - 5, 1000 * MIB, 1000 * MIB), Way::On);
    }
}
