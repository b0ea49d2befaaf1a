// The policy's side: its questions, its module, and the settings in its documents.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import yaml from 'js-yaml';

const ROOT = join(import.meta.dirname, '../..');
const CHART = 'charts/vm-feature-manager-policy';

const read = (file) => readFileSync(join(ROOT, file), 'utf8');

export const questions = yaml.load(read(`${ CHART }/questions.yaml`)).questions;

/** The chart's values. Their settings are the defaults of the policy. */
export const values = yaml.load(read(`${ CHART }/values.yaml`));

/** The policy as the manifests install it. */
export const manifest = yaml.load(read('deploy/base/policy.yaml'));

/** What the module's `validate_settings` says against settings; nothing if they are valid. */
export function refusal(settings) {
  const folder = mkdtempSync(join(tmpdir(), 'form-'));
  const file = join(folder, 'settings.json');

  try {
    writeFileSync(file, JSON.stringify(settings));
    const vmfm = process.env.VMFM || 'scripts/vmfm';
    const run = spawnSync(vmfm, ['--settings', file, 'examples/nested-virt/vm.yaml'], { cwd: ROOT, encoding: 'utf8' });

    if (run.error) {
      throw run.error;
    }
    // 2: the settings cannot be used. 0 and 1 are about the virtual machine.
    return run.status === 2 ? run.stderr.replace(`error: ${ file }: `, '').trim() : '';
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The value of a setting, as in `hugepages.pageSizes`. */
export const at = (settings, variable) => variable.split('.').reduce((value, key) => value?.[key], settings);

const areSettings = (value) => questions.some(({ variable }) => at(value, variable) !== undefined);

/** The settings in the YAML blocks of the documents and in the examples: `[place, settings]`. */
export function examples() {
  const blocks = readdirSync(join(ROOT, 'docs'))
    .filter((file) => file.endsWith('.md'))
    .flatMap((file) => [...read(`docs/${ file }`).matchAll(/^( *)```yaml\n([^]*?)^ *```$/gm)].map(([, indent, block]) => [`docs/${ file }`, block.replaceAll(`\n${ indent }`, '\n').slice(indent.length)]));
  const files = readdirSync(join(ROOT, 'examples'), { recursive: true })
    .filter((file) => file.endsWith('settings.yaml'))
    .map((file) => [`examples/${ file }`, read(`examples/${ file }`)]);

  return [...blocks, ...files].flatMap(([place, text]) => {
    // Not every block is YAML that can be read: some have only a part of it.
    let documents = [];

    try {
      documents = yaml.loadAll(text);
    } catch {
      return [];
    }
    const found = documents.flatMap((document) => [document, document?.settings, document?.spec?.settings]).filter(areSettings);

    return found.map((settings) => [place, settings]);
  }).filter(([, settings], index, all) => index === all.findIndex(([, other]) => JSON.stringify(other) === JSON.stringify(settings)));
}
