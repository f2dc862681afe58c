//! The map of the native world, the ways over it, and the weather above it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::super::chance::Chance;

pub(super) const MAP_WIDTH: usize = 224;
pub(super) const MAP_HEIGHT: usize = 160;
const WEATHER_COLUMNS: usize = 96;
const WEATHER_ROWS: usize = 64;

/// The places that a chat command can name, with their column and row.
pub(super) const PLACES: [(&str, usize, usize); 5] =
    [("market", 112, 80), ("harbour", 206, 30), ("forge", 34, 126), ("inn", 66, 46), ("gate", 186, 136)];

/// A tile of the map, `row * MAP_WIDTH + column`.
pub(super) type Tile = usize;

/// Hills and water on a grid.
pub(super) struct Terrain {
    /// Metres, a tile each.
    pub(super) heights: Vec<f64>,
    dry: Vec<bool>,
    land: Vec<Tile>,
}

impl Terrain {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let rough: Vec<f64> = (0..MAP_WIDTH * MAP_HEIGHT).map(|_| chance.share() * 12.0).collect();
        let heights = smooth_heights(&rough);
        let mut sorted = heights.clone();
        sorted.sort_by(f64::total_cmp);
        let lake_level = sorted.get(sorted.len() / 6).copied().unwrap_or(0.0);
        let mut dry: Vec<bool> = heights.iter().map(|&height| height > lake_level).collect();
        for (_, column, row) in PLACES {
            if let Some(tile) = dry.get_mut(row * MAP_WIDTH + column) {
                *tile = true;
            }
        }
        let mut terrain = Self { heights, dry, land: Vec::new() };
        terrain.land =
            (0..terrain.dry.len()).filter(|&t| terrain.is_dry(t) && terrain.neighbours(t).next().is_some()).collect();
        terrain
    }

    fn is_dry(&self, tile: Tile) -> bool {
        self.dry.get(tile).copied().unwrap_or(false)
    }

    fn height(&self, tile: Tile) -> f64 {
        self.heights.get(tile).copied().unwrap_or(0.0)
    }

    /// A tile that one can stand on and leave.
    pub(super) fn anywhere(&self, chance: &mut Chance) -> Tile {
        self.place_of(chance.below(self.land.len() as u64))
    }

    /// Players have no place of their own yet: each is somewhere, and stays there.
    pub(super) fn place_of(&self, fingerprint: u64) -> Tile {
        self.land.get((fingerprint % self.land.len().max(1) as u64) as usize).copied().unwrap_or(0)
    }

    fn neighbours(&self, tile: Tile) -> impl Iterator<Item = Tile> {
        let (row, column) = (tile / MAP_WIDTH, tile % MAP_WIDTH);
        [
            (row > 0).then(|| tile - MAP_WIDTH),
            (row + 1 < MAP_HEIGHT).then(|| tile + MAP_WIDTH),
            (column > 0).then(|| tile - 1),
            (column + 1 < MAP_WIDTH).then(|| tile + 1),
        ]
        .into_iter()
        .flatten()
        .filter(|&there| self.is_dry(there))
    }

    /// Walking costs ten a tile, uphill more.
    fn climb_cost(&self, here: Tile, there: Tile) -> u64 {
        10 + ((self.height(there) - self.height(here)).max(0.0) * 10.0) as u64
    }
}

fn smooth_heights(heights: &[f64]) -> Vec<f64> {
    (0..heights.len())
        .map(|tile| {
            let around = [tile.wrapping_sub(1), tile + 1, tile.wrapping_sub(MAP_WIDTH), tile + MAP_WIDTH];
            let around: Vec<f64> = around.iter().filter_map(|&t| heights.get(t).copied()).collect();
            let own = heights.get(tile).copied().unwrap_or(0.0);
            let mean = (own * 2.0 + around.iter().sum::<f64>()) / (2.0 + around.len() as f64);
            (mean * 100.0).round() / 100.0
        })
        .collect()
}

/// Steps between two tiles if there were no water.
pub(super) fn tile_distance(here: Tile, there: Tile) -> u64 {
    ((here / MAP_WIDTH).abs_diff(there / MAP_WIDTH) + (here % MAP_WIDTH).abs_diff(there % MAP_WIDTH)) as u64
}

/// A* from `start` to `goal`: the tiles to walk over, the last one first; nothing if there is no way.
#[inline(never)]
pub(super) fn find_path(terrain: &Terrain, start: Tile, goal: Tile) -> Vec<Tile> {
    let mut frontier = BinaryHeap::from([Reverse((0, start))]);
    let mut cheapest = HashMap::from([(start, 0)]);
    let mut came_from = HashMap::new();
    while let Some(Reverse((_, here))) = frontier.pop() {
        if here == goal {
            return trace_path(&came_from, start, goal);
        }
        let cost_here = cheapest.get(&here).copied().unwrap_or(0);
        for there in terrain.neighbours(here) {
            let cost = cost_here + terrain.climb_cost(here, there);
            if cheapest.get(&there).is_none_or(|&known| cost < known) {
                cheapest.insert(there, cost);
                came_from.insert(there, here);
                frontier.push(Reverse((cost + 10 * tile_distance(there, goal), there)));
            }
        }
    }
    Vec::new()
}

fn trace_path(came_from: &HashMap<Tile, Tile>, start: Tile, goal: Tile) -> Vec<Tile> {
    let back = std::iter::successors(Some(goal), |tile| came_from.get(tile).copied());
    back.take_while(|&tile| tile != start).collect()
}

/// Temperature and rain over the map, a coarse grid that wind and chance keep moving.
pub(super) struct Weather {
    chance: Chance,
    degrees: Vec<f64>,
    rain_mm: Vec<f64>,
}

/// What the weather is like.
#[derive(serde::Serialize)]
pub(super) struct WeatherReport {
    degrees: f64,
    rain_mm: f64,
    wettest: Region,
    degrees_by_region: Vec<f64>,
}

#[derive(serde::Serialize)]
struct Region {
    row: usize,
    column: usize,
}

impl Weather {
    pub(super) fn new(mut chance: Chance) -> Self {
        let regions = WEATHER_COLUMNS * WEATHER_ROWS;
        let degrees = (0..regions).map(|_| 8.0 + chance.share() * 14.0).collect();
        let rain_mm = (0..regions).map(|_| chance.share() * 4.0).collect();
        Self { chance, degrees, rain_mm }
    }

    /// A while passes.
    pub(super) fn drift(&mut self) {
        for _ in 0..8 {
            self.degrees = diffuse_weather(&self.degrees, 0.2);
            self.rain_mm = diffuse_weather(&self.rain_mm, 0.4);
        }
        let front = self.chance.below(self.degrees.len() as u64) as usize;
        if let (Some(degrees), Some(rain_mm)) = (self.degrees.get_mut(front), self.rain_mm.get_mut(front)) {
            *degrees += self.chance.share() * 12.0 - 6.0;
            *rain_mm = self.chance.share() * 4.0;
        }
    }

    pub(super) fn report(&self) -> WeatherReport {
        let mean = |values: &[f64]| (values.iter().sum::<f64>() / values.len() as f64 * 100.0).round() / 100.0;
        let wettest = self.rain_mm.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(at, _)| at);
        WeatherReport {
            degrees: mean(&self.degrees),
            rain_mm: mean(&self.rain_mm),
            wettest: Region { row: wettest / WEATHER_COLUMNS, column: wettest % WEATHER_COLUMNS },
            degrees_by_region: self.degrees.iter().map(|d| (d * 10.0).round() / 10.0).collect(),
        }
    }
}

/// Each region moves towards the mean of its four neighbours by `share`; the map's edges meet.
#[inline(never)]
fn diffuse_weather(values: &[f64], share: f64) -> Vec<f64> {
    let count = values.len();
    let at = |region: usize| values.get(region % count).copied().unwrap_or(0.0);
    let mix = |(region, value): (usize, &f64)| {
        let around = at(region + count - 1)
            + at(region + 1)
            + at(region + count - WEATHER_COLUMNS)
            + at(region + WEATHER_COLUMNS);
        value + share * (around / 4.0 - value)
    };
    values.iter().enumerate().map(mix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_chain_of_dry_neighbours() {
        let mut chance = Chance(3);
        let terrain = Terrain::new(&mut chance);
        let (start, goal) = (terrain.anywhere(&mut chance), 80 * MAP_WIDTH + 112);
        let path = find_path(&terrain, start, goal);
        assert_eq!(path.first(), Some(&goal));
        let mut here = start;
        for &there in path.iter().rev() {
            assert!(terrain.neighbours(here).any(|t| t == there), "{here} {there}");
            here = there;
        }
        assert!(find_path(&terrain, start, start).is_empty());
    }

    #[test]
    fn weather_mixes_and_keeps_its_mean() {
        let mixed = diffuse_weather(&[0.0; WEATHER_COLUMNS * 2], 0.5);
        assert!(mixed.iter().all(|v| *v == 0.0));
        let mut spike = vec![0.0; WEATHER_COLUMNS * WEATHER_ROWS];
        spike[0] = 8.0;
        let mixed = diffuse_weather(&spike, 0.5);
        assert!((mixed.iter().sum::<f64>() - 8.0).abs() < 1e-9);
        assert!((mixed[1] - 1.0).abs() < 1e-9);
    }
}
