// The form of the extension, driven as a user does it.

import { config, mount } from '@vue/test-utils';
import FloatingVue from 'floating-vue';
import cloneDeep from 'lodash/cloneDeep';
import { nextTick, reactive, toRaw } from 'vue';
import vSelect from 'vue-select';
import { vi } from 'vitest';
import { createStore } from 'vuex';

import Questions from '@kubewarden/components/Questions';
import { DEFAULT_POLICY } from '@kubewarden/types/policy';
import { removeEmptyAttrs } from '@kubewarden/utils/object';

/** The component that drew an element. */
const component = (element) => element.__vueParentComponent;

const ignored = { mounted() {} };

config.global.components = { 'v-select': vSelect, t: { template: '<span><slot /></span>' } };
config.global.plugins = [
  FloatingVue,
  createStore({
    getters: {
      // The texts of the questions are their own: there is no translation.
      'i18n/withFallback': () => (key, args, fallback) => fallback,
      'i18n/t': () => (key) => key,
      'prefs/theme': () => 'light',
    },
  }),
];
config.global.mocks = { t: (key) => key };
config.global.directives = { 'clean-html': ignored, 'clean-tooltip': ignored, 'trim-whitespace': ignored, shortkey: ignored, 'stripped-aria-label': ignored, t: ignored };

export class Form {
  /** Opens the form of a new policy, or that of one with these settings. */
  static async open(questions, settings) {
    const form = new Form();

    form.questions = cloneDeep(questions);
    form.policy = reactive(cloneDeep(DEFAULT_POLICY));
    if (settings) {
      form.policy.spec.settings = cloneDeep(settings);
    }
    form.errors = [];
    form.wrapper = mount(Questions, {
      attachTo: document.body,
      props: {
        mode: settings ? 'edit' : 'create',
        value: form.policy.spec.settings,
        source: { policy: form.policy, questions: { questions: form.questions } },
        tabbed: 'never',
        targetNamespace: 'default',
      },
      global: { config: { errorHandler: (error) => form.errors.push(error), warnHandler: () => {} } },
    });
    await form.settle();

    return form;
  }

  close() {
    this.wrapper.unmount();
  }

  /** Waits until the form has taken over what was typed. Its longest delay is half a second. */
  async settle() {
    await vi.advanceTimersByTimeAsync(600);
    await nextTick();
  }

  /** The components of the questions that are shown, in order. */
  fields() {
    return [...this.wrapper.element.querySelectorAll('.question > .col > *')].map(component);
  }

  /** The variables of the questions that are shown, in order. */
  shown() {
    return this.fields().map((field) => field.props.question.variable);
  }

  field(variable) {
    const found = this.fields().find((field) => field.props.question.variable === variable);

    if (!found) {
      throw new Error(`the form does not show ${ variable }`);
    }

    return { type: found.props.question.type, all: (selector) => [...found.vnode.el.querySelectorAll(selector)] };
  }

  /** What the field of a question shows. */
  shows(variable) {
    const { type, all } = this.field(variable);
    const texts = (selector) => all(selector).map((input) => input.value);

    switch (type) {
    case 'boolean':
      return all('input[type=checkbox]')[0].checked;
    case 'enum':
      return all('.vs__selected')[0].textContent.trim();
    case 'int':
      return Number(texts('input')[0]);
    case 'array[':
      return texts('input');
    case 'map[': {
      const values = texts('textarea');

      return Object.fromEntries(texts('input').map((key, index) => [key, values[index]]));
    }
    default:
      return texts('input')[0];
    }
  }

  /** Types, clicks or chooses a value. */
  async enter(variable, value) {
    const { type, all } = this.field(variable);
    const fill = async(selector, text) => {
      const input = all(selector).at(-1);

      input.value = text;
      input.dispatchEvent(new Event('input'));
      await nextTick();
    };
    const addRow = async() => {
      all('button').at(-1).click();
      await nextTick();
    };

    switch (type) {
    case 'boolean':
      if (this.shows(variable) !== value) {
        all('.checkbox-container')[0].click();
      }
      break;
    case 'enum':
      component(all('.v-select')[0]).proxy.select(value);
      break;
    case 'array[':
      for (const text of value) {
        await addRow();
        await fill('input', text);
      }
      break;
    case 'map[':
      for (const [key, text] of Object.entries(value)) {
        await addRow();
        await fill('input', key);
        await fill('textarea', text);
      }
      break;
    default:
      await fill('input', value);
    }
    await this.settle();
  }

  /** What "Finish" and "Save" send as `spec.settings`. */
  saved() {
    const policy = cloneDeep(toRaw(this.policy));

    removeEmptyAttrs(policy);

    return policy.spec.settings ?? {};
  }
}
