// What the form of Rancher's Kubewarden extension makes of the questions, and what it would save.

import { parseModuleString, parsePolicyModule } from '@kubewarden/modules/policyChart';
import { afterEach, beforeAll, expect, test, vi } from 'vitest';

import { Form } from './form.js';
import { at, examples, manifest, questions, refusal, values } from './settings.js';

const DEFAULTS = values.settings;
const isList = ({ type }) => type === 'array[';
const isMap = ({ type }) => type === 'map[';

let form;

async function open(settings) {
  form = await Form.open(questions, settings);

  return form;
}

/** Types all settings into the form. */
async function type(settings) {
  const typed = questions.filter(({ variable }) => at(settings, variable) !== undefined);
  // Switches first, so that what depends on them is shown.
  const order = [...typed.filter(({ variable }) => variable.endsWith('.enabled')), ...typed];

  for (const { variable } of new Set(order)) {
    await form.enter(variable, at(settings, variable));
  }
}

beforeAll(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  form?.close();
  form = undefined;
});

test('untouched, it shows and saves the defaults', async() => {
  await open();
  const shown = new Set(form.shown());
  const saved = form.saved();

  for (const question of questions) {
    const { variable } = question;
    const value = at(DEFAULTS, variable);

    expect(question.default, variable).toEqual(value);
    if (shown.has(variable)) {
      // The extension shows every list empty, so its help must say what that means.
      expect(form.shows(variable), variable).toEqual(isList(question) ? [] : value);
    }
    if (isList(question) || isMap(question) || !shown.has(variable)) {
      expect(at(saved, variable), variable).toBeUndefined();
    } else {
      expect(at(saved, variable), variable).toBe(value);
    }
  }
  expect(refusal(saved)).toBe('');
});

test('the help of a list says what an empty one means', () => {
  for (const { variable, description, default: items } of questions.filter(isList)) {
    expect(description, variable).toMatch(/One in each row\./);
    expect(description, variable).toMatch(/If the list is empty/);
    for (const item of items) {
      expect(description, variable).toContain(item);
    }
  }
});

test('every question depends on the switch of its section only', async() => {
  await open();
  for (const { variable } of questions.filter((question) => question.variable.endsWith('.enabled'))) {
    const dependents = questions.filter((question) => question.show_if?.startsWith(`${ variable }=`)).map((question) => question.variable);

    await form.enter(variable, false);
    expect(form.shown()).not.toEqual(expect.arrayContaining(dependents.slice(0, 1)));
    await form.enter(variable, true);
    expect(form.shown()).toEqual(expect.arrayContaining(dependents));
  }
  expect(form.shown()).toEqual(questions.map(({ variable }) => variable));
  expect(refusal(form.saved())).toBe('');
});

test('every choice, bound and switch can be saved', async() => {
  for (const pick of ['first', 'last']) {
    await open();
    for (const { variable, type: kind, options, min, max } of questions) {
      const [first, last] = { boolean: [true, false], enum: [options?.[0], options?.at(-1)], int: [min, max] }[kind] ?? [];

      if (first !== undefined && !variable.endsWith('.enabled')) {
        await form.enter('userData.enabled', true);
        await form.enter(variable, pick === 'first' ? first : last);
      }
    }
    expect(refusal(form.saved())).toBe('');
    form.close();
  }
  form = undefined;
});

const DOCUMENTED = examples();

test('the documents have examples of settings', () => {
  const places = DOCUMENTED.map(([place]) => place);

  expect(places).toEqual(expect.arrayContaining(['docs/security.md', 'docs/devices.md', 'docs/other-sources.md']));
});

test.each(DOCUMENTED)('the example in %s can be typed, saved and opened again', async(place, settings) => {
  await open();
  await type(settings);
  const saved = form.saved();

  for (const { variable } of questions.filter(({ variable }) => at(settings, variable) !== undefined)) {
    expect(at(saved, variable), variable).toEqual(at(settings, variable));
  }
  expect(refusal(saved)).toBe('');
  form.close();

  // What the document shows, as somebody else wrote it into the policy.
  for (const before of [saved, settings]) {
    await open(before);
    expect(form.errors).toEqual([]);
    for (const { variable } of questions.filter(({ variable }) => at(before, variable) !== undefined && form.shown().includes(variable))) {
      expect(form.shows(variable), variable).toEqual(at(before, variable));
    }
    expect(form.saved()).toMatchObject(before);
    expect(refusal(form.saved())).toBe('');
    form.close();
  }
  form = undefined;
});

test('a list of several rows, one of them empty, is valid', async() => {
  await open();
  await form.enter('gpuDevicePlugin.allowedPlugins', ['nvidia.com/*', '']);
  await form.enter('hugepages.pageSizes', ['1Gi', '']);
  expect(form.saved().gpuDevicePlugin.allowedPlugins).toEqual(['nvidia.com/*', '']);
  expect(refusal(form.saved())).toBe('');
});

// The field of a map's value grows with Enter.
test.each([
  ['pciPassthrough.allowedDevices', '0000:00:02.0\nnvidia.com/*'],
  ['pciPassthrough.allowedDevices', 'node1/*, node2/*,'],
  ['usbPassthrough.allowedDevices', '046d:c52b,,node1/*'],
  ['gpuDevicePlugin.allowedIn', 'nvidia.com/gpu,\n\n amd.com/gpu\n'],
  ['defaultDirectives', 'nested-virt=enabled\nhugepages=2Mi'],
  ['defaultDirectives', 'nested-virt=enabled;\nhugepages=2Mi;\n'],
])('%s: lines and empty pieces separate in %j', async(variable, text) => {
  await open();
  await form.enter(variable, { 'team-a': text });
  expect(at(form.saved(), variable)).toEqual({ 'team-a': text.trim() });
  expect(refusal(form.saved())).toBe('');
});

test('a map row without a value is not saved, so its help names a pattern for nobody', async() => {
  const maps = questions.filter((question) => isMap(question) && question.variable.includes('allowed'));

  await open();
  expect(maps.length).toBe(3);
  for (const { variable, description } of maps) {
    expect(description, variable).toMatch(/write none/);
    await form.enter(variable, { '*': '' });
    expect(at(form.saved(), variable), variable).toBeUndefined();
    await form.enter(variable, { 'team-a': 'node1/*', '*': 'none' });
    expect(at(form.saved(), variable), variable).toEqual({ 'team-a': 'node1/*', '*': 'none' });
  }
  expect(refusal(form.saved())).toBe('');
});

// Mends itself with a newer extension. Then the documents may show lists again.
test.fails('a list in a map does not break it', async() => {
  await open({ ...DEFAULTS, pciPassthrough: { ...DEFAULTS.pciPassthrough, allowedDevices: { 'team-a': ['node1/*'] } } });
  expect(form.errors).toEqual([]);
});

test('it finds the chart of a policy that manifests or the chart installed', () => {
  const { module } = manifest.spec;
  const { registry, repository, tag } = parsePolicyModule({ values });

  expect(parseModuleString(module)).toEqual({ registry, repository, tag });
});
